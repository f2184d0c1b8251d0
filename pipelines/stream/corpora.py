"""Open the corpora of a run and turn them into streams; their shards are indexed in parallel on the cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.config.data import DataConfig
from pipelines.runtime.events import IndexProgress, OnEvent, notifier
from pipelines.stream.source import Stream
from xmodal.data.decode.fields import Field, FieldMap
from xmodal.data.decode.text import clean_caption
from xmodal.data.formats.extent_store import ExtentStore
from xmodal.data.index import corpus as corpora
from xmodal.data.index.corpus import Corpus, RawSample
from xmodal.data.stream.block_cache import BlockCache
from xmodal.data.stream.blocks import RowDecoder
from xmodal.data.stream.order import StreamPlan, split_global_batch
from xmodal.errors import BadSample, ConfigError, CorpusError


def open_corpora(data: DataConfig, on_event: OnEvent) -> list[Corpus]:
    """Open every corpus with its index, which is made or brought up to date in parallel on the cluster.

    `on_event` receives the progress, and notes on damage and stale indexes. CorpusError where a corpus is empty or
    unusable.
    """

    def progress(done: int, total: int) -> None:
        on_event(IndexProgress(done=done, total=total))

    return [
        corpora.open_corpus(
            uri,
            index=data.index,
            options=data.storage,
            map_shards=map_on_cluster,
            progress=progress,
            notify=notifier(on_event),
            hash_extents=data.hash_extents,
        )
        for uri in data.corpus
    ]


def map_on_cluster(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Apply a function to every item by Ray tasks, a few hundred at a time; yield the results in order."""
    shared = ray.put(function)
    waiting: deque[ray.ObjectRef] = deque()
    for item in items:
        waiting.append(_apply.remote(shared, item))
        if len(waiting) >= 256:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


@ray.remote(num_cpus=1, max_retries=3)
def _apply(function: Callable[[Any], Any], item: object) -> object:
    return function(item)


def global_shares(
    corpora_rows: Sequence[int], weights: Sequence[float], batch_size: int, workers: Sequence[int]
) -> list[int]:
    """Return the rows of each corpus in every global batch; ConfigError where no number of workers divides them."""
    if batch_size < len(corpora_rows):
        raise ConfigError(f"batch_size={batch_size} has no room for a row of each of {len(corpora_rows)} corpora")
    parts = split_global_batch(batch_size, list(weights) or [float(rows) for rows in corpora_rows])
    if not any(all(part % size == 0 for part in parts) for size in workers):
        possible = [w for w in range(1, batch_size + 1) if all(part % w == 0 for part in parts)][-12:]
        wanted = f"{workers[0]}:{workers[-1]}" if len(workers) > 1 else workers[0]
        whose = "the batch" if len(parts) == 1 else f"the corpora's shares of the batch ({parts})"
        raise ConfigError(
            f"batch_size={batch_size} cannot be divided by workers={wanted}: {whose} must be a multiple of the "
            f"number of workers; worker counts that fit: {', '.join(map(str, possible))}"
        )
    return parts


def build_streams(
    data: DataConfig,
    opened: Sequence[Corpus],
    maps: Sequence[FieldMap],
    fields: tuple[Field, ...],
    *,
    batch_size: int,
    workers: Sequence[int],
    seed: int,
    role: str = "source",
    first_number: int = 0,
) -> list[Stream]:
    """Return one stream for each corpus, all keyed by the same global step.

    `role` is that of their rows in a batch, `first_number` the number of streams before these.
    """
    parts = global_shares([corpus.rows for corpus in opened], data.weights, batch_size, workers)
    streams = []
    for number, (corpus, mapping, share) in enumerate(zip(opened, maps, parts, strict=True), first_number):
        plan = StreamPlan(
            corpus.extents.rows,
            corpus.extents.shard,
            seed + number,  # each corpus of a mixture has an order of its own
            share,
            shuffle=data.shuffle,
            target_task_rows=data.rows_per_task,
        )
        decoder, store = RowDecoder(mapping, fields), _extent_store(data)
        streams.append(Stream(corpus, plan, decoder, number, role, _block_cache(data), store))
    return streams


def _block_cache(data: DataConfig) -> BlockCache | None:
    if data.cache in (None, "off"):
        return None
    return BlockCache(folder=str(data.cache), limit_bytes=round(data.cache_gb * 1e9))


def _extent_store(data: DataConfig) -> ExtentStore:
    return ExtentStore(folder=data.shuffle_folder, limit_bytes=round(data.shuffle_gb * 1e9))


def sample_captions(corpus: Corpus, mapping: FieldMap, *, most: int, extents: int = 64) -> list[str]:
    """Read up to `most` captions from extents spread evenly over the corpus, in parallel; of lists, every one."""
    step = max(1, len(corpus.extents) // extents)
    chosen = range(0, len(corpus.extents), step)
    text_map = FieldMap({"text": mapping.sources["text"]})
    read = _CaptionReader(ray.put(corpus), text_map)
    captions = [caption for extent in map_on_cluster(read, chosen) for caption in extent][:most]
    if not captions:
        raise CorpusError(f"{corpus.uri}: no caption found at {' '.join(text_map.specs)}; check the field map")
    return captions


@dataclass(frozen=True)
class _CaptionReader:
    """Reads the captions of one extent of a shared corpus."""

    corpus: ray.ObjectRef
    mapping: FieldMap

    def __call__(self, extent: int) -> list[str]:
        samples = corpora.read_extent(ray.get(self.corpus), extent, columns=tuple(sorted(self.mapping.members)))
        return [caption for sample in samples for caption in _captions(sample, self.mapping)]


def _captions(sample: RawSample, mapping: FieldMap) -> list[str]:
    """Return the captions of a sample as the stream will see them; bad ones are left for the stream to quarantine.

    They are cleaned, and so cut: the time to train a tokenizer grows with the square of the longest word.
    """
    captions = []
    with suppress(BadSample):
        value = mapping.pick("text", sample.members or {})
        for text in value if isinstance(value, list) else [value]:
            with suppress(BadSample):
                captions += [clean_caption(text)] if isinstance(text, str | bytes) else []
    return captions
