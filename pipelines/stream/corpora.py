"""URIs of corpora -> streams: index them in parallel, fit their field maps, choose what decodes each field."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.config.data import Data
from pipelines.stream.source import Stream
from xmodal.data.decode.fields import Field, FieldMap, available_members, parse_field_map
from xmodal.data.decode.text import clean_caption
from xmodal.data.index import corpus as corpora
from xmodal.data.index.corpus import Corpus, RawSample
from xmodal.data.stream.block_cache import BlockCache
from xmodal.data.stream.blocks import Recipe
from xmodal.data.stream.order import Plan, shares
from xmodal.errors import BadSample, ConfigError, CorpusError

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]  # shards done, shards in all


def open_all(data: Data, *, notify: Notify, progress: Progress | None = None) -> list[Corpus]:
    """Every corpus with its index, made or brought up to date in parallel on the cluster.

    CorpusError where one is empty or unusable; `notify` hears of damage and of stale indexes.
    """
    return [
        corpora.open_corpus(
            uri,
            index=data.index,
            options=data.storage,
            map_shards=on_cluster,
            progress=progress,
            notify=notify,
            hash_extents=data.hash_extents,
        )
        for uri in data.corpus
    ]


def on_cluster(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map` by Ray tasks, results in order; at most a few hundred in flight."""
    shared = ray.put(function)
    waiting: deque[ray.ObjectRef] = deque()
    for item in items:
        waiting.append(_apply.remote(shared, item))
        if len(waiting) >= 256:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


@ray.remote(num_cpus=1, max_retries=3)
def _apply(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def field_map(corpus: Corpus, specs: Sequence[str], names: Sequence[str]) -> FieldMap:
    """The map of `names` for this corpus: as given, else the usual one. CorpusError with the fields that exist."""
    found = available(corpus)
    if not specs:
        return FieldMap.guess(found, corpus.format, names)
    given = parse_field_map(specs)
    missing = sorted(set(names) - set(given.sources))
    if missing:
        raise ConfigError(
            f"the field map says nothing of {', '.join(missing)}: add e.g. {missing[0]}=NAME; "
            f"{corpus.uri} has {', '.join(sorted(found))}"
        )
    given.check(found)
    return FieldMap({name: given.sources[name] for name in names})


def available(corpus: Corpus) -> set[str]:
    """The members that exist by the index, with the keys of the JSON of some first sample."""
    names = set(corpus.fields)
    first = next((s for s in corpora.read_extent(corpus, 0) if s.members is not None), None)
    return names | (available_members(first.members) if first and first.members else set())


def global_shares(
    corpora_rows: Sequence[int], weights: Sequence[float], batch_size: int, workers: Sequence[int]
) -> list[int]:
    """Rows of each corpus in every global batch; ConfigError when none of these numbers of workers divides them."""
    if batch_size < len(corpora_rows):
        raise ConfigError(f"batch_size={batch_size} has no room for a row of each of {len(corpora_rows)} corpora")
    parts = shares(batch_size, list(weights) or [float(rows) for rows in corpora_rows])
    if not any(all(part % size == 0 for part in parts) for size in workers):
        fitting = [w for w in range(1, batch_size + 1) if all(part % w == 0 for part in parts)][-12:]
        wanted = f"{workers[0]}:{workers[-1]}" if len(workers) > 1 else workers[0]
        whose = "the batch" if len(parts) == 1 else f"the corpora's shares of the batch ({parts})"
        raise ConfigError(
            f"batch_size={batch_size} cannot be divided by workers={wanted}: {whose} must be a multiple of the "
            f"number of workers; worker counts that fit: {', '.join(map(str, fitting))}"
        )
    return parts


def streams(
    data: Data,
    opened: Sequence[Corpus],
    maps: Sequence[FieldMap],
    fields: tuple[Field, ...],
    *,
    batch_size: int,
    workers: Sequence[int],
    seed: int,
    role: str = "source",
    after: int = 0,
) -> list[Stream]:
    """One stream for each corpus, all keyed by the same global step; `after` is how many streams stand before them."""
    parts = global_shares([corpus.rows for corpus in opened], data.weights, batch_size, workers)
    found = []
    for number, (corpus, mapping, share) in enumerate(zip(opened, maps, parts, strict=True), after):
        plan = Plan(
            corpus.extents.rows,
            corpus.extents.shard,
            seed + number,  # corpora of one mixture must not march in step
            share,
            task_rows_wanted=data.rows_per_task,
        )
        found.append(Stream(corpus, plan, Recipe(mapping, fields), number, role, _cache(data)))
    return found


def _cache(data: Data) -> BlockCache | None:
    """Where decoded blocks are kept."""
    if data.cache in (None, "off"):
        return None
    return BlockCache(folder=str(data.cache), limit_bytes=round(data.cache_gb * 1e9))


def sample_texts(corpus: Corpus, mapping: FieldMap, *, most: int, extents: int = 64) -> list[str]:
    """Up to `most` captions from extents spread evenly over the corpus, read in parallel; of lists, every one."""
    step = max(1, len(corpus.extents) // extents)
    chosen = range(0, len(corpus.extents), step)
    where, fields = ray.put(corpus), FieldMap({"text": mapping.sources["text"]})
    texts = [text for part in on_cluster(_TextsOf(where, fields), chosen) for text in part][:most]
    if not texts:
        raise CorpusError(f"{corpus.uri}: no caption found at {' '.join(fields.specs)}; check the field map")
    return texts


@dataclass(frozen=True)
class _TextsOf:
    """Reads the captions of one extent of a shared corpus."""

    corpus: ray.ObjectRef
    mapping: FieldMap

    def __call__(self, extent: int) -> list[str]:
        samples = corpora.read_extent(ray.get(self.corpus), extent, columns=tuple(sorted(self.mapping.members)))
        return [text for sample in samples for text in _texts(sample, self.mapping)]


def _texts(sample: RawSample, mapping: FieldMap) -> list[str]:
    """The captions of a sample as the stream will see them; what it will quarantine, it will name when it gets there.

    Cleaned, and so cut: the time that a tokenizer takes to learn grows with the square of the longest word.
    """
    texts = []
    with suppress(BadSample):
        value = mapping.pick("text", sample.members or {})
        for text in value if isinstance(value, list) else [value]:
            with suppress(BadSample):
                texts += [clean_caption(text)] if isinstance(text, str | bytes) else []
    return texts
