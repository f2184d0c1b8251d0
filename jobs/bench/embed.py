"""Rows a second of jobs.embed, against a plain loop of the same model over batches that lie decoded in memory.

Two models: `vit-b-32` on images of 224 pixels, as people embed with, and `vit-tiny` on 64, which computes so little
that reading shows. Both sides have the same cores: as many encoders, and as many processes of the loop, as there are,
with one thread each. The loop reads, decodes and stores nothing, so the ratio is what all of that costs. The rate of
jobs.embed is taken between its first and its last parts; the time before the first part is recorded separately. Both
take turns, several rounds, and a ratio is of one round. XMODAL_BENCH_ROWS takes fewer rows, to see that it works.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from jobs.bench.measurement import Measurement, median_measurement
from pipelines.config.embed import EmbedConfig
from pipelines.config.resources import ResourceConfig
from pipelines.inference import embed
from pipelines.inference.encode import encode_items
from pipelines.models.loaded_encoder import LoadedEncoder, load_encoder
from pipelines.runtime import cluster
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.decode.fields import parse_field_map
from xmodal.data.decode.tokenizer import special_ids, train_tokenizer
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream.evaluation_rows import (
    EvaluationDecoder,
    EvaluationRows,
    ExtentChunk,
    chunk_extents,
    read_evaluation_rows,
)
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.storage import StorageOptions

ROUNDS = 3
FIELDS = ("image=jpg", "text=txt")
LOOP_S = 15.0


@dataclass(frozen=True)
class EmbedCase:
    """A model and a corpus that keeps it busy for a minute."""

    model: str
    size: int  # pixels of an image's side
    rows: int
    rows_per_part: int  # of a file
    batch: int  # rows embedded at once

    @property
    def detail(self) -> dict[str, Any]:
        """The case as details of a measurement."""
        return {"model": self.model, "pixels": self.size, "rows": self.rows, "batch_size": self.batch}


CASES = (
    EmbedCase(model="vit-b-32", size=224, rows=512, rows_per_part=32, batch=32),
    EmbedCase(model="vit-tiny", size=64, rows=16_384, rows_per_part=512, batch=256),
)


def run() -> Iterator[Measurement]:
    """Yield the rates of both cases, and their ratios to the plain loop."""
    max_rows, cores = int(os.environ.get("XMODAL_BENCH_ROWS") or 1 << 30), os.cpu_count() or 1
    started = time.perf_counter()
    cluster.connect(ResourceConfig(address="local"))
    ray_start = {"ray_start_s": round(time.perf_counter() - started, 2)}
    for setting in CASES:
        yield from measure(replace(setting, rows=min(setting.rows, max_rows)), cores, ray_start)
    ray.shutdown()


def measure(setting: EmbedCase, cores: int, start_s: dict[str, float]) -> Iterator[Measurement]:
    """Yield the rates of jobs.embed and of the plain loop for one case, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        corpus, run_uri = write_corpus(Path(scratch, "corpus"), setting), write_run(Path(scratch, "run"), setting.model)
        encoder = load_encoder(run_uri, StorageOptions())
        rounds = []
        for number in range(ROUNDS):
            rate, first_s = embed_rate(run_uri, corpus, str(Path(scratch, f"to-{number}")), setting, cores)
            rounds.append((rate, plain_loop_rate(encoder, corpus, setting, cores), first_s))
    detail, prefix = setting.detail | {"workers": cores}, "embed_" + setting.model.replace("-", "_")
    ours, theirs, first_part_s = ([round_results[i] for round_results in rounds] for i in range(3))
    yield median_measurement(ours, name=f"{prefix}_rows_per_s", unit="rows/s", detail=detail)
    yield median_measurement(theirs, name=f"{prefix}_plain_loop_rows_per_s", unit="rows/s", detail=detail)
    yield median_measurement(
        first_part_s, name=f"{prefix}_first_part_s", unit="s", lower_is_better=True, detail=detail | start_s
    )
    ratios = [a / b for a, b, _ in rounds]
    yield median_measurement(ratios, name=f"{prefix}_over_plain_loop", unit="ratio", target=0.9, detail=detail)


def write_corpus(folder: Path, setting: EmbedCase) -> str:
    """Write scenes as tar shards of half a part each, repeated until there are enough rows; return the URI."""
    unrepeated, scene_count = folder.with_name("once"), min(2048, setting.rows)
    synthetic.write_corpus(
        str(unrepeated), "photo", scene_count, 0, rows_per_shard=setting.rows_per_part // 2, size=setting.size * 9 // 8
    )
    folder.mkdir()
    for copy in range(-(-setting.rows // scene_count)):
        for shard in sorted(unrepeated.glob("*.tar")):
            shutil.copyfile(shard, folder / f"{copy:03}-{shard.name}")
    open_corpus(str(folder))  # the index is made before the clock starts
    return str(folder)


def write_run(folder: Path, preset: str) -> str:
    """Write a run with one checkpoint of random weights; return its URI."""
    captions = [members["txt"].decode() for _, members in synthetic.scene_samples("photo", 500, 0, size=16)]
    tokenizer = train_tokenizer(captions, 2000)
    ids = special_ids(tokenizer)
    torch.manual_seed(0)
    model = DualEncoder.create(
        preset, vocab_size=ids.vocab_size, bos_id=ids.begin, eos_id=ids.end, pad_id=ids.pad
    )  # fmt: skip
    model.save_pretrained(folder / "files", tokenizer_json=tokenizer)
    commit(folder / "files", str(folder / "checkpoints"), step=0, attempt=1, run_id="bench")
    return str(folder)


def embed_rate(run_uri: str, corpus: str, to: str, setting: EmbedCase, cores: int) -> tuple[float, float]:
    """Return rows a second between the first parts and the last ones, and seconds to the first part."""
    progress: list[tuple[float, int]] = []
    config = EmbedConfig(
        checkpoint=run_uri, corpus=corpus, to=to, fields=FIELDS, batch_size=setting.batch,
        rows_per_part=setting.rows_per_part, workers=cores, address="local",
    )  # fmt: skip
    started = time.perf_counter()
    embed.run(config, progress=lambda done, total: progress.append((time.perf_counter(), done)))
    part_times = progress[1:]  # the first call is before any part
    (started_steady, first), (until, last) = part_times[2 * cores - 1], part_times[-cores]
    return (last - first) / (until - started_steady), part_times[0][0] - started


def plain_loop_rate(encoder: LoadedEncoder, corpus: str, setting: EmbedCase, cores: int) -> float:
    """Return rows a second of as many processes as there are cores, all at once."""
    with get_context("spawn").Pool(cores) as pool:
        return sum(pool.starmap(_plain_loop, [(encoder, corpus, setting)] * cores, chunksize=1))


def _plain_loop(encoder: LoadedEncoder, uri: str, setting: EmbedCase) -> float:
    torch.set_num_threads(1)
    model, items = encoder.model(), _load_rows(encoder, uri, setting.rows_per_part)
    encode_items(model, items, setting.batch, encoder.dim)  # warm-up
    rows, started = 0, time.perf_counter()
    while time.perf_counter() - started < LOOP_S:
        encode_items(model, items, setting.batch, encoder.dim)
        rows += len(items.row)
    return rows / (time.perf_counter() - started)


def _load_rows(trained: LoadedEncoder, uri: str, rows: int) -> EvaluationRows:
    corpus = open_corpus(uri)
    decoder = EvaluationDecoder(parse_field_map(FIELDS), tuple(trained.fields.values()))
    extents: np.ndarray = next(chunk_extents(corpus, 0, len(corpus.extents), rows))
    return read_evaluation_rows(ExtentChunk.from_corpus(corpus, extents), decoder)
