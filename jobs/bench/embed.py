"""Rows a second of jobs.embed, against a plain loop of the same model over batches that lie decoded in memory.

Two models: `vit-b-32` on pictures of 224 pixels, as people embed with, and `vit-tiny` on 64, which computes so little
that reading shows. Both sides have the same cores: as many encoders, and as many processes of the loop, as there are,
with one thread each. The loop reads, decodes and stores nothing, so the ratio is what all of that costs. The rate of
jobs.embed is taken between its first and its last parts; what starts before the first part is recorded apart. Both take
turns, several rounds, and a ratio is of one round. XMODAL_BENCH_ROWS takes fewer rows, to see that it works.
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

from jobs.bench.measurement import Figure, median_figure
from pipelines.config.embed import Config
from pipelines.config.resources import Resources
from pipelines.inference import embed
from pipelines.inference.encode import Trained, encode_items, load
from pipelines.runtime import cluster
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.decode.fields import parse_field_map
from xmodal.data.decode.tokenizer import special_ids, train_tokenizer
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream.evaluation_rows import Chunk, ItemRecipe, Items, chunks, read_items
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.storage import StorageOptions

ROUNDS = 3
FIELDS = ("image=jpg", "text=txt")
LOOP_S = 15.0


@dataclass(frozen=True)
class Setting:
    """A model, and a corpus that keeps it busy for a minute; rows in all, stored in a file, and embedded at once."""

    model: str
    size: int
    rows: int
    part: int
    batch: int

    @property
    def detail(self) -> dict[str, Any]:
        return {"model": self.model, "pixels": self.size, "rows": self.rows, "batch_size": self.batch}


SETTINGS = (
    Setting(model="vit-b-32", size=224, rows=512, part=32, batch=32),
    Setting(model="vit-tiny", size=64, rows=16_384, part=512, batch=256),
)


def run() -> Iterator[Figure]:
    most, cores = int(os.environ.get("XMODAL_BENCH_ROWS") or 1 << 30), os.cpu_count() or 1
    began = time.perf_counter()
    cluster.connect(Resources(address="local"))
    start_s = {"ray_start_s": round(time.perf_counter() - began, 2)}
    for setting in SETTINGS:
        yield from measure(replace(setting, rows=min(setting.rows, most)), cores, start_s)
    ray.shutdown()


def measure(setting: Setting, cores: int, start_s: dict[str, float]) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        corpus, run_uri = write_corpus(Path(scratch, "corpus"), setting), write_run(Path(scratch, "run"), setting.model)
        trained = load(run_uri, StorageOptions())
        rounds = []
        for number in range(ROUNDS):
            rate, first_s = embedding(run_uri, corpus, str(Path(scratch, f"to-{number}")), setting, cores)
            rounds.append((rate, plain_loop(trained, corpus, setting, cores), first_s))
    detail, prefix = setting.detail | {"workers": cores}, "embed_" + setting.model.replace("-", "_")
    ours, theirs, first = ([one[i] for one in rounds] for i in range(3))
    yield median_figure(ours, name=f"{prefix}_rows_per_s", unit="rows/s", detail=detail)
    yield median_figure(theirs, name=f"{prefix}_plain_loop_rows_per_s", unit="rows/s", detail=detail)
    yield median_figure(first, name=f"{prefix}_first_part_s", unit="s", at_most=True, detail=detail | start_s)
    ratios = [a / b for a, b, _ in rounds]
    yield median_figure(ratios, name=f"{prefix}_over_plain_loop", unit="ratio", reach=0.9, detail=detail)


def write_corpus(folder: Path, setting: Setting) -> str:
    """Scenes as tar shards of one part each, repeated until there are enough rows."""
    once, scenes = folder.with_name("once"), min(2048, setting.rows)
    synthetic.write_corpus(str(once), "photo", scenes, 0, rows_per_shard=setting.part // 2, size=setting.size * 9 // 8)
    folder.mkdir()
    for copy in range(-(-setting.rows // scenes)):
        for shard in sorted(once.glob("*.tar")):
            shutil.copyfile(shard, folder / f"{copy:03}-{shard.name}")
    open_corpus(str(folder))  # the index is made before the clock starts
    return str(folder)


def write_run(folder: Path, preset: str) -> str:
    """A run with one checkpoint: the model as it was drawn."""
    captions = [members["txt"].decode() for _, members in synthetic.samples("photo", 500, 0, size=16)]
    tokenizer = train_tokenizer(captions, 2000)
    ids = special_ids(tokenizer)
    torch.manual_seed(0)
    model = DualEncoder.create(
        preset, vocab_size=ids.vocab_size, bos_id=ids.begin, eos_id=ids.end, pad_id=ids.pad
    )  # fmt: skip
    model.save_pretrained(folder / "files", tokenizer_json=tokenizer)
    commit(folder / "files", str(folder / "checkpoints"), step=0, attempt=1, run_id="bench")
    return str(folder)


def embedding(run_uri: str, corpus: str, to: str, setting: Setting, cores: int) -> tuple[float, float]:
    """Rows a second between the first parts and the last ones, and seconds to the first part."""
    seen: list[tuple[float, int]] = []
    config = Config(
        checkpoint=run_uri, corpus=corpus, to=to, fields=FIELDS, batch_size=setting.batch, rows_per_part=setting.part,
        workers=cores, address="local",
    )  # fmt: skip
    began = time.perf_counter()
    embed.run(config, progress=lambda done, total: seen.append((time.perf_counter(), done)))
    parts = seen[1:]  # the first call says that nothing is done yet
    (since, first), (until, last) = parts[2 * cores - 1], parts[-cores]
    return (last - first) / (until - since), parts[0][0] - began


def plain_loop(trained: Trained, corpus: str, setting: Setting, cores: int) -> float:
    """Rows a second of as many processes as there are cores, all at once."""
    with get_context("spawn").Pool(cores) as pool:
        return sum(pool.starmap(_loop, [(trained, corpus, setting)] * cores, chunksize=1))


def _loop(trained: Trained, uri: str, setting: Setting) -> float:
    torch.set_num_threads(1)
    model, items = trained.model(), _preloaded(trained, uri, setting.part)
    encode_items(model, items, setting.batch, trained.dim)  # what is set up once
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < LOOP_S:
        encode_items(model, items, setting.batch, trained.dim)
        rows += len(items.row)
    return rows / (time.perf_counter() - began)


def _preloaded(trained: Trained, uri: str, rows: int) -> Items:
    corpus = open_corpus(uri)
    recipe = ItemRecipe(parse_field_map(FIELDS), tuple(trained.fields.values()))
    first: np.ndarray = next(chunks(corpus, 0, len(corpus.extents), rows))
    return read_items(Chunk.of(corpus, first), recipe)
