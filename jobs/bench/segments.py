"""How long a training that is slower than its data waits where one Ray Dataset ends and the next one begins.

Each step takes 20 ms, as a small model does; a segment is some ten seconds. A wait is counted from the demand for a
batch to the batch, for the first batch of every segment but the first, beside the median wait elsewhere.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from jobs.bench.measurement import Measurement, median_measurement
from pipelines.config.data import DataConfig
from pipelines.config.resources import ResourceConfig
from pipelines.runtime.cluster import connect
from pipelines.stream import corpora, ingest
from xmodal.data import synthetic
from xmodal.data.decode.image import ImageField
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import open_corpus

ROWS, BATCH, SIZE, STEP_S, SEGMENTS, TASKS_PER_SEGMENT, ROWS_PER_TASK = 4096, 8, 32, 0.02, 4, 32, 128


def run() -> Iterator[Measurement]:
    """Yield the longest wait at a boundary, and the median wait of the other steps."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        folder = str(Path(scratch, "corpus"))
        synthetic.write_corpus(folder, "photo", ROWS, 0, rows_per_shard=512, size=SIZE)
        connect(ResourceConfig(address="local"))
        waits, boundaries = measure(folder, str(Path(scratch, "rows")))
        ray.shutdown()
    detail = {"step_s": STEP_S, "segments": SEGMENTS, "steps": len(waits), "at_boundaries": boundaries}
    yield Measurement(
        name="segments_longest_wait_at_a_boundary", value=max(boundaries), unit="s", target=0.1, lower_is_better=True,
        detail=detail,
    )  # fmt: skip
    yield median_measurement(waits, name="segments_wait_of_a_step", unit="s", lower_is_better=True, detail=detail)


def measure(folder: str, store: str) -> tuple[list[float], list[float]]:
    """Return the wait of every step but the first, and of the first steps of later segments, in seconds."""
    corpus = open_corpus(folder)
    data = DataConfig(corpus=(folder,), rows_per_task=ROWS_PER_TASK, shuffle_folder=store)
    streams = corpora.build_streams(
        data, [corpus], [field_maps.field_map(corpus, (), ("image",))], (ImageField(size=SIZE),),
        batch_size=BATCH, workers=[1], seed=0,
    )  # fmt: skip
    steps = SEGMENTS * TASKS_PER_SEGMENT * ROWS_PER_TASK // BATCH
    firsts = {first for first, _ in ingest.segments(streams, 0, steps, TASKS_PER_SEGMENT)} - {0}
    batches = ingest.step_batches(
        streams, 0, steps, rank=0, world_size=1, share=lambda value: value, reserved={"CPU": 1.0},
        most_tasks=TASKS_PER_SEGMENT,
    )  # fmt: skip
    waits, boundaries = [], []
    next(batches)
    for step in range(1, steps):
        time.sleep(STEP_S)
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
        if step in firsts:
            boundaries.append(waits[-1])
    assert statistics.median(waits) < 10 * STEP_S, "the stream is slower than the steps: nothing can be said"
    return waits, boundaries
