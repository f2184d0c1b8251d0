"""A corpus URI comes in, an indexed `Corpus` goes out: list the shards, index what is new, keep the index."""

from collections.abc import Callable, Iterable
from typing import Any

from xmodal.data.extents import DEFAULT, Corpus, Damage, Extents, Format, RawSample, Shard, ShardIndex, damage_summary
from xmodal.storage.session import StorageOptions

__all__ = [
    "Corpus",
    "Damage",
    "Extents",
    "Format",
    "RawSample",
    "Shard",
    "ShardIndex",
    "damage_summary",
    "index_shard",
    "open_corpus",
    "read_extent",
]


def index_shard(uri: str, entry: Any, options: StorageOptions, *, hash_extents: bool = False) -> ShardIndex:
    """Index one listed file of the corpus at `uri`: the unit of parallel work."""
    raise NotImplementedError


def open_corpus(
    uri: str,
    *,
    index: str | None = None,
    options: StorageOptions = DEFAULT,
    map_shards: Callable[[Callable, Iterable], Iterable] = map,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
    rebuild: bool = False,
    hash_extents: bool = False,
) -> Corpus:
    """Load or build the index of the corpus at `uri`."""
    raise NotImplementedError


def read_extent(corpus: Corpus, extent: int, *, columns: tuple[str, ...] | None = None) -> list[RawSample]:
    """Exactly `corpus.extents.rows[extent]` samples in row order; what cannot be delivered carries its fault."""
    raise NotImplementedError
