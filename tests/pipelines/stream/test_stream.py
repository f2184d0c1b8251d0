"""On a real Ray, global batches do not depend on the number of workers, on their deaths, or on the first step."""

import json
import os
import signal
import sys
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import ray.train
import torch.distributed as dist
from ray.data import DataContext
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipelines.runtime import ray_compat
from pipelines.runtime.rank import Rank
from pipelines.stream import corpora, ingest, source
from pipelines.stream.corpora import DataConfig
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import open_corpus

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
pytestmark = [pytest.mark.ray]

BATCH, STEPS = 24, 25  # 240 rows: ten steps an epoch, so the stream crosses two borders of epochs


def make_streams(uris, *, batch=BATCH, weights=(), workers=1, rows_per_task=48):
    data = DataConfig(corpus=tuple(uris), weights=weights, rows_per_task=rows_per_task)
    opened = [open_corpus(uri) for uri in uris]
    maps = [field_maps.field_map(corpus, (), ("image", "text")) for corpus in opened]
    tokenizer = train_tokenizer(["a red circle", "a blue square"], 520)
    fields = (
        ImageField(size=16, augment=Augment(scale=(0.5, 1.0), jitter=0.5, brightness=0.2)),
        TextField(tokenizer_json=tokenizer, length=12),
    )
    return corpora.build_streams(data, opened, maps, fields, batch_size=batch, workers=[workers], seed=5)


@dataclass(frozen=True)
class Killing:
    """Kill `rank` after `step` steps, once."""

    rank: int = -1
    step: int = 0


def worker(config):
    """Log every row of a rank with a checksum of its data; continue after the last step that all ranks logged."""
    rank = Rank.here()
    log = Path(config["log"])
    start = 0
    if rank.first:
        lines = [int(json.loads(line)["step"]) for file in log.glob("0.*") for line in file.read_text().splitlines()]
        start = max(lines, default=0) // 5 * 5
    start = rank.share(start)
    out = (log / f"{rank.index}.{os.getpid()}").open("w", buffering=1)
    streams = ray.get(config["streams"])
    deliveries = ingest.step_batches(
        streams,
        start,
        config["steps"],
        rank=rank.index,
        world_size=rank.world_size,
        share=rank.share,
        reserved={"CPU": 1.0},
        most_tasks=config["most_tasks"],
    )
    for step, delivery in enumerate(deliveries, start):
        batch = delivery.batch
        sums = [
            (int(row), int(pixels.long().sum()), int(ids.long().sum()))
            for row, pixels, ids in zip(batch.row, batch.fields["image"], batch.fields["text"], strict=True)
        ]
        out.write(json.dumps({"step": step, "rows": sums}) + "\n")
        dist.barrier()  # as a training step would
        killing = config["killing"]
        if start == 0 and rank.index == killing.rank and step == killing.step:
            os.kill(os.getpid(), signal.SIGKILL)


def global_batches(folder, streams, world, *, killing=Killing(), most_tasks=4096, steps=STEPS):
    log = Path(folder) / f"w{world}k{killing.rank}t{most_tasks}"
    log.mkdir()
    TorchTrainer(
        worker,
        train_loop_config={
            "log": str(log),
            "streams": ray.put(streams),
            "killing": killing,
            "most_tasks": most_tasks,
            "steps": steps,
        },
        scaling_config=ScalingConfig(num_workers=world, resources_per_worker={"CPU": 1 / world}),
        run_config=RunConfig(name="r", storage_path=str(log / "ray"), failure_config=FailureConfig(max_failures=2)),
    ).fit()
    by_step = defaultdict(dict)
    for file in sorted(log.glob("[0-9]*.*"), key=lambda f: f.stat().st_mtime):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            rank = file.name.split(".")[0]
            rows = [tuple(row) for row in entry["rows"]]
            assert by_step[entry["step"]].get(rank, rows) == rows, "a replayed step brought other rows"
            by_step[entry["step"]][rank] = rows
    assert sorted(by_step) == list(range(steps))
    return [sorted(row for rows in by_step[step].values() for row in rows) for step in range(steps)]


@pytest.fixture(scope="module")
def expected(scenes, ray_here, tmp_path_factory):
    """Log the stream of one worker, which the others are compared with."""
    return global_batches(tmp_path_factory.mktemp("one"), make_streams([scenes]), 1)


def test_one_worker_delivers_every_row_once_an_epoch(expected):
    for epoch in (0, 1):
        rows = [row for batch in expected[epoch * 10 : epoch * 10 + 10] for row, *_ in batch]
        assert sorted(rows) == list(range(240))


def test_augmentation_differs_between_epochs(expected):
    first = {row: pixels for batch in expected[:10] for row, pixels, _ in batch}
    second = {row: pixels for batch in expected[10:20] for row, pixels, _ in batch}
    assert sum(first[row] != second[row] for row in first) > 200


@pytest.mark.parametrize(
    ("world", "killing", "most_tasks"),
    [(2, Killing(), 4), (3, Killing(), 4096), (2, Killing(rank=0, step=13), 4096)],
    ids=["two workers, a new Dataset every four tasks", "three workers", "two workers, rank 0 killed"],
)
def test_global_batches_do_not_depend_on_the_workers(expected, scenes, ray_here, tmp_path, world, killing, most_tasks):
    streams = make_streams([scenes], workers=world)
    assert global_batches(tmp_path, streams, world, killing=killing, most_tasks=most_tasks) == expected


def test_every_batch_of_a_mixture_has_each_corpus_at_its_share_and_each_corpus_has_its_own_epochs(
    scenes, ray_here, tmp_path
):
    small = tmp_path / "small"
    small.mkdir()
    with tarfile.open(Path(scenes) / "photo-00000.tar") as tar:
        tar.extractall(tmp_path / "members")
    names = sorted(os.listdir(tmp_path / "members"))[: 3 * 40]  # 40 samples of three members
    with tarfile.open(small / "a.tar", "w") as tar:
        for name in names:
            tar.add(tmp_path / "members" / name, name)
    streams = make_streams([scenes, str(small)], batch=24, weights=(2.0, 1.0), workers=2)
    assert [s.plan.global_batch for s in streams] == [16, 8]
    batches = global_batches(tmp_path, streams, 2, steps=12)
    for batch in batches:
        corpus = [row >> ingest.CORPUS_SHIFT for row, *_ in batch]
        assert corpus.count(0) == 16 and corpus.count(1) == 8
    second = [row & (1 << ingest.CORPUS_SHIFT) - 1 for batch in batches[:5] for row, *_ in batch if row >> 48]
    assert sorted(second) == list(range(40))


def test_blocks_cross_the_store_unchanged(scenes):
    """Arrow returns the columns of a block as the same arrays."""
    from pipelines.stream.source import from_table, to_table
    from xmodal.data.stream import blocks

    (stream,) = make_streams([scenes])
    task = next(blocks.block_tasks(stream.corpus, stream.plan, 0, 1, 12))
    for block in blocks.read_blocks(task, stream.decoder):
        (back,) = from_table(to_table(block), stream.decoder.columns)
        assert back.keys() == block.keys()
        assert all(np.array_equal(back[name], block[name]) for name in block)
        assert sum(column.nbytes for column in to_table(block).columns) == 12 * stream.decoder.row_bytes


def test_a_changed_order_of_reuse_would_show(scenes):
    """`read` fills every cell of a block that it is given, whatever was in it before."""
    from xmodal.data.stream import blocks

    (stream,) = make_streams([scenes])

    def garbage(recipe, rows):
        block = blocks.allocate_block(recipe, rows)
        for array in block.values():
            array.view(np.uint8)[...] = 1
        return block

    task = next(blocks.block_tasks(stream.corpus, stream.plan, 9, 10, 8))
    for clean, dirty in zip(
        blocks.read_blocks(task, stream.decoder),
        blocks.read_blocks(task, stream.decoder, new_block=garbage),
        strict=True,
    ):
        assert all(np.array_equal(clean[name], dirty[name]) for name in clean)


def test_the_scheduling_loop_sleeps_only_while_it_is_ahead_of_its_consumer(monkeypatch):
    sleeps = []
    monkeypatch.setattr(ray_compat.time, "sleep", sleeps.append)
    throttle_class = ray_compat.backpressure_throttle()
    assert throttle_class in source._context(100, {}).execution_callback_classes
    busy, full, ended = (InputDataBuffer(DataContext.get_current(), []) for _ in range(3))
    monkeypatch.setattr(busy, "num_active_tasks", lambda: 2)
    full.notify_in_task_output_backpressure(True)
    throttle, level, ahead = throttle_class(), SimpleNamespace(_topology={busy: None}), {busy: None, full: None}
    throttle.on_execution_step(level)
    assert sleeps == []
    for _ in range(9):
        throttle.on_execution_step(SimpleNamespace(_topology=ahead))
    limits = (ray_compat.SHORTEST_SLEEP_S, ray_compat.LONGEST_SLEEP_S)
    assert sleeps == sorted(sleeps) and (sleeps[0], sleeps[-1]) == limits
    throttle.on_execution_step(level)
    throttle.on_execution_step(SimpleNamespace(_topology=ahead))
    assert sleeps[-1] == ray_compat.SHORTEST_SLEEP_S and len(sleeps) == 10
    throttle.on_execution_step(SimpleNamespace(_topology={ended: None}))  # all is read, and waits to be taken
    assert len(sleeps) == 11


def test_segments_begin_short_and_grow_up_to_their_limit():
    stream = SimpleNamespace(plan=SimpleNamespace(task_rows=1024, global_batch=256))
    runs = list(ingest.segments([stream], 10, 5000, 256))
    assert runs[0][0] == 10 and runs[-1][1] == 5000
    assert all(end == start for (_, end), (start, _) in pairwise(runs))
    assert [end - start for start, end in runs][:5] == [256, 512, 1024, 1024, 1024]
    assert list(ingest.segments([stream], 0, 12, 1)) == [(0, 4), (4, 8), (8, 12)]
    assert list(ingest.segments([stream], 3, 3, 256)) == []
