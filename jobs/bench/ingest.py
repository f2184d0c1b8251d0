"""Rows a second from sharded JPEG to 224-px uint8 batches, against webdataset, Ray's own reader and a bare decode loop.

The photographs of the data sets are repeated to 20,677 rows in 87 shards. Every contender feeds batches of 256 to this
process with two workers; its first rows are left out, then rows are counted until it has delivered enough. All take
turns, several rounds, and a ratio is of one round: changes of the machine's speed hit both sides of it.
"""

import io
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import ray
import ray.data
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from jobs.bench.measurement import Measurement, median_measurement
from jobs.bench.memory import keep_freed_memory
from pipelines.runtime import cluster
from pipelines.stream import corpora, ingest
from pipelines.stream.corpora import DataConfig
from xmodal.data.decode.image import ImageField
from xmodal.data.formats.shard_writer import write_shards
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream.order import Shuffle

NEEDS = ("photos/*.tar",)
SIZE, BATCH, ROUNDS = 224, 256, 3
PHOTOS, COPIES = 713, 29
SKIPPED, COUNTED = 2048, 8192  # rows before the clock starts, rows on the clock
PROCESSES = 2
ON_RAY = ("tar", "parquet", "tar_task", "parquet_task", "read_webdataset")

Batches = Iterable[int]  # rows of each batch as it arrives


def run(folder: Path) -> Iterator[Measurement]:
    """Yield the rates of all contenders and their ratios; `folder` holds the data sets."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        tar, parquet = Path(scratch, "tar"), Path(scratch, "parquet")
        write_corpora(folder, tar, parquet)
        cluster.connect(cluster.ResourceConfig(address="local"), cpus=PROCESSES)
        shards = sorted(str(path) for path in tar.glob("*.tar"))
        contenders: dict[str, Callable[[], Batches]] = {
            "tar": partial(xmodal_stream, str(tar)),
            "parquet": partial(xmodal_stream, str(parquet)),
            "tar_task": partial(xmodal_stream, str(tar), "task"),
            "parquet_task": partial(xmodal_stream, str(parquet), "task"),
            "webdataset": partial(webdataset_loader, shards, decode_with_pillow),
            "webdataset_our_decode": partial(webdataset_loader, shards, decode_with_xmodal),
            "read_webdataset": partial(ray_webdataset_reader, shards),
        }
        rates: dict[str, list[float]] = {name: [] for name in (*contenders, "decode")}
        first: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            rates["decode"].append(decode_loop(shards))
            for name, contender in contenders.items():
                rate, first_s = steady_rate(contender) if name in ON_RAY else run_in_process(contender)
                rates[name].append(rate)
                first[name].append(first_s)
        ray.shutdown()
    yield from measurements(rates, first)


def run_in_process(contender: Callable[[], Batches]) -> tuple[float, float]:
    """Return `steady_rate` of a process without Ray: torch's DataLoader forks, and a fork of Ray's threads may hang."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(steady_rate, contender).result()


def measurements(rates: dict[str, list[float]], first: dict[str, list[float]]) -> Iterator[Measurement]:
    """Yield the rate of every contender, then the ratios with their targets."""
    for name, values in rates.items():
        seconds = {"first_batch_s": round(statistics.median(first[name]), 2)} if name in first else {}
        yield median_measurement(values, name=f"ingest_{name}_rows_per_s", unit="rows/s", detail=seconds)
    for ours, opponent, target in (
        ("tar", "webdataset", 1.3),
        ("tar", "webdataset_our_decode", 0.9),
        ("tar", "read_webdataset", None),
        ("tar", "decode", 0.75),
        ("tar", "tar_task", None),
        ("parquet", "parquet_task", None),
        ("parquet", "webdataset", 1.3),
        ("parquet", "webdataset_our_decode", 0.9),
        ("parquet", "decode", 0.75),
    ):
        ratios = [a / b for a, b in zip(rates[ours], rates[opponent], strict=True)]
        yield median_measurement(ratios, name=f"ingest_{ours}_over_{opponent}", unit="ratio", target=target)


def write_corpora(source: Path, tar: Path, parquet: Path) -> None:
    """Write the shards of photographs, and the same samples as Parquet, both repeated, with their indexes."""
    originals = sorted((source / "photos").glob("*.tar"))
    samples = [sample for path in originals for sample in _samples(path)]
    parquet_once = parquet.with_name("once")
    list(write_shards(samples, str(parquet_once), format="parquet", prefix="photos", rows_per_shard=256))
    for folder, files in ((tar, originals), (parquet, sorted(parquet_once.glob("*.parquet")))):
        folder.mkdir()
        for copy in range(COPIES):
            for file in files:
                shutil.copyfile(file, folder / f"{copy:02}-{file.name}")
        open_corpus(str(folder))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        for name, file in members.items():
            key, _, extension = name.partition(".")
            if extension == "jpg" and file is not None:
                yield key, {"jpg": file.read()}


def steady_rate(contender: Callable[[], Batches]) -> tuple[float, float]:
    """Return rows a second after the first rows, and seconds to the first batch."""
    keep_freed_memory()
    started = time.perf_counter()
    batches = iter(contender())
    rows = next(batches)
    first_s = time.perf_counter() - started
    while rows < SKIPPED:
        rows += next(batches)
    counted, since = 0, time.perf_counter()
    while counted < COUNTED:
        counted += next(batches)
    rate = counted / (time.perf_counter() - since)
    for _ in batches:  # until its end: a reader that is dropped keeps reading for a while
        pass
    return rate, first_s


def xmodal_stream(uri: str, shuffle: Shuffle = "wide") -> Iterator[int]:
    """Yield the rows of each batch of the stream as a train worker reads it: tensors in this process.

    Each time the extents are fetched anew.
    """
    corpus = open_corpus(uri)
    data = DataConfig(corpus=(uri,), shuffle=shuffle, shuffle_folder=tempfile.mkdtemp(dir=Path(uri).parent))
    mapping = field_maps.field_map(corpus, (), ("image",))
    streams = corpora.build_streams(
        data, [corpus], [mapping], (ImageField(size=SIZE),), batch_size=BATCH, workers=[1], seed=0
    )
    steps = (SKIPPED + COUNTED) // BATCH + 8  # the tail of a stream runs on one worker: it is not counted
    deliveries = ingest.step_batches(
        streams, 0, steps, rank=0, world_size=1, share=lambda value: value, reserved={"CPU": 1.0}
    )
    return (len(delivery.batch) for delivery in deliveries)


def decode_with_pillow(encoded: bytes) -> np.ndarray:
    """Return an image as a CLIP user's transform decodes it: short side to 224 by bicubic resize, centre crop."""

    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def decode_with_xmodal(encoded: bytes) -> np.ndarray:
    """Return an image as the stream decodes it."""
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    ImageField(size=SIZE).decode(encoded, np.random.default_rng(0), {"image": out})
    return out


def webdataset_loader(shards: list[str], decode: Callable[[bytes], np.ndarray]) -> Iterator[int]:
    """Yield the rows of each batch of webdataset in a torch DataLoader, with a worker process for each core."""
    steps = (SKIPPED + COUNTED) // BATCH + 8
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0, empty_check=False)
        .shuffle(1000)
        .to_tuple("jpg")
        .map_tuple(decode)
        .batched(BATCH, partial=False)
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=PROCESSES, multiprocessing_context="fork")
    for _, (images,) in zip(range(steps), loader, strict=False):
        yield len(torch.as_tensor(images))


def ray_webdataset_reader(shards: list[str]) -> Iterator[int]:
    """Yield the rows of each batch of Ray's WebDataset reader without decoder, with our decode in `map_batches`."""
    steps = (SKIPPED + COUNTED) // BATCH + 8
    needed = shards[: -(-steps * BATCH * len(shards) // (PHOTOS * COPIES)) + 2]

    def decode(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"image": np.stack([decode_with_xmodal(encoded) for encoded in rows["jpg"]])}

    dataset = ray.data.read_webdataset(needed, decoder=None).map_batches(decode, batch_size=64)
    for _, batch in zip(range(steps), dataset.iter_torch_batches(batch_size=BATCH), strict=False):
        yield len(batch["image"])


def decode_loop(shards: list[str], seconds: float = 6.0) -> float:
    """Return rows a second of the decode alone, from memory, in a process for each core."""
    with get_context("spawn").Pool(PROCESSES) as pool:
        return sum(pool.starmap(_decode_for, [(shards[0], seconds)] * PROCESSES, chunksize=1))


def _decode_for(shard: str, seconds: float) -> float:
    cv2.setNumThreads(1)
    encoded = [members["jpg"] for _, members in _samples(Path(shard))]
    field, rng, out = ImageField(size=SIZE), np.random.default_rng(0), {"image": np.empty((SIZE, SIZE, 3), np.uint8)}
    rows, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for image in encoded:
            field.decode(image, rng, out)
        rows += len(encoded)
    return rows / (time.perf_counter() - started)
