"""A corpus URI comes in, an indexed `Corpus` goes out: list the shards, index what is new, keep the index."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import combinations
from typing import Any

from xmodal import storage
from xmodal.data.extents import DEFAULT, Corpus, Damage, Extents, Format, RawSample, Shard, ShardIndex, damage_summary
from xmodal.data.formats.extent_reader import read_extent
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index.extent_index import INDEX_NAME, DamagedIndex, Index
from xmodal.data.index.listing import Listing, list_shards
from xmodal.data.index.shard_indexer import index_shard, relative
from xmodal.errors import CorpusError, StorageError

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
    "index_uri",
    "open_corpus",
    "read_extent",
]

MOST_IGNORED = 100  # names of objects beside the shards that a corpus remembers
Notify = Callable[[str], None]


def open_corpus(
    uri: str,
    *,
    index: str | None = None,
    options: storage.StorageOptions = DEFAULT,
    map_shards: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
    progress: Callable[[int, int], None] | None = None,
    notify: Notify | None = None,
    rebuild: bool = False,
    hash_extents: bool = False,
) -> Corpus:
    """The corpus at `uri`: a folder of shards, one shard, or a pattern (`s3://b/{00000..00012}.tar`, `*.parquet`).

    The index is stored beside the shards, or in the folder `index`. Shards whose size or etag is no longer the indexed
    one are indexed again, by `map_shards(function, entries)`, which may run in parallel and return in any order.
    `progress(done, total)` counts them, `notify` gets each message about what was found. `hash_extents` stores a
    SHA-256 per extent, which every later read verifies. `rebuild` ignores the stored index.

    CorpusError: no shards, nothing usable in them, Parquet files that do not fit each other, an index from the future.
    """
    say = notify or (lambda message: None)
    listing = list_shards(uri, options)
    _tell_ignored(listing, say)
    where = index_uri(uri, listing, index)
    kept = None if rebuild else _load(where, listing, options, hash_extents, say)
    stale = _stale(listing, kept, say)
    hashed = hash_extents or (kept is not None and kept.hashed)
    work = partial(index_shard, listing.base, options=options, hash_extents=hashed)
    fresh = {found.shard.path: found for found in _counted(map_shards(work, stale), len(stale), progress)}
    made = stored_index.merge(listing.format, listing.paths, kept, fresh)
    _check(uri, made)
    if stale or kept is None or len(kept.shards) != len(made.shards):
        _store(made, where, options, say)
    _tell_damage(made, {entry.uri for entry in stale}, listing, say)
    ignored = listing.ignored[:MOST_IGNORED]
    return Corpus(listing.base, made.format, made.shards, made.extents, made.damage, options, ignored)


def index_uri(uri: str, listing: Listing, folder: str | None) -> str:
    """Where the index of `uri` is stored: beside the shards, or in the cache `folder` under a hash of the URI."""
    canonical = uri.rstrip("/") if "://" in uri else os.path.abspath(uri)
    digest = hashlib.sha256(canonical.encode(errors="surrogateescape")).hexdigest()[:16]
    if folder is not None:
        return storage.join(folder, f"{digest}.parquet")
    name = INDEX_NAME if listing.is_folder else f"{INDEX_NAME}-{digest}"
    return storage.join(listing.base, f"{name}.parquet")


def _load(
    where: str, listing: Listing, options: storage.StorageOptions, hash_extents: bool, say: Notify
) -> Index | None:
    try:
        kept = stored_index.load(where, options)
    except DamagedIndex as error:
        say(f"the index {where} is damaged ({error}); building it again")
        return None
    if kept is None:
        return None
    if kept.format != listing.format:
        say(f"the index {where} is of {kept.format} shards, the corpus now has {listing.format}; building it again")
        return None
    if hash_extents and not kept.hashed:
        say(f"the index {where} has no hashes; building it again")
        return None
    return kept


def _stale(listing: Listing, kept: Index | None, say: Notify) -> list[storage.Entry]:
    """The shards that the kept index does not know as they are now."""
    if kept is None:
        return list(listing.entries)
    known = {shard.path: (shard.size, shard.etag) for shard in kept.shards}
    paths = dict(zip(listing.paths, listing.entries, strict=True))
    stale = {path: e for path, e in paths.items() if known.get(path) != (e.size, e.etag)}
    for what, names in {
        "changed since it was indexed": [path for path in stale if path in known],
        "not indexed yet": [path for path in stale if path not in known],
        "no longer there": [path for path in known if path not in paths],
    }.items():
        if names:
            say(f"{_count(len(names), 'shard')} {what}: {_some(names)}")
    return list(stale.values())


def _counted(
    results: Iterable[ShardIndex], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[ShardIndex]:
    for done, result in enumerate(results, 1):
        yield result
        if progress:
            progress(done, total)


def _check(uri: str, made: Index) -> None:
    if not len(made.extents):
        worst = "; ".join(f"{d.shard} at byte {d.offset}: {d.reason} ({d.detail})" for d in made.damage[:3])
        raise CorpusError(
            f"none of the {_count(len(made.shards), 'shard')} of {uri} holds a usable sample: {worst}; "
            "replace the shards, or name another folder"
        )
    kinds: dict[str, dict[str, Shard]] = {}
    for shard in {(shard.fields, shard.kinds): shard for shard in made.shards}.values():
        for column, kind in zip(shard.fields, shard.kinds, strict=False):
            kinds.setdefault(column, {}).setdefault(kind, shard)
    for column, found in kinds.items():
        for one, other in combinations(found, 2):
            if not _go_together(one, other):
                raise CorpusError(_drift(uri, column, found[one], found[other]))


def _go_together(one: str, other: str) -> bool:
    """Whether values of both kinds can be read as one column without loss."""
    pair = {one, other}
    return "null" in pair or pair == {"bytes", "text"} or pair == {"text", "texts"}


def _drift(uri: str, column: str, one: Shard, other: Shard) -> str:
    schemas = " and ".join(
        f"{shard.path} ({', '.join(f'{n}: {k}' for n, k in zip(shard.fields, shard.kinds, strict=True))})"
        for shard in (one, other)
    )
    return f"{uri}: column {column!r} differs between {schemas}; write both alike, or open them as two corpora"


def _store(made: Index, where: str, options: storage.StorageOptions, say: Notify) -> None:
    try:
        storage.write(where, stored_index.dump(made), options=options)
    except StorageError as error:
        say(f"the index could not be stored, so the next start builds it again; name a writable folder for it: {error}")


def _tell_ignored(listing: Listing, say: Notify) -> None:
    known = ("_xmodal", "_refused.jsonl", "_SUCCESS")  # the index, and what preparing a corpus leaves
    ignored = [path for path in listing.ignored if not path.startswith(known)]
    metadata = [path for path in ignored if listing.format == "tar" and path.endswith(".parquet")]
    if metadata:
        say(f"tar and Parquet files lie together; the tars are the corpus, ignored: {_some(metadata)}")
    if others := [path for path in ignored if path not in set(metadata)]:
        say(f"ignored {_count(len(others), 'object')} beside the shards: {_some(others)}")


def _tell_damage(made: Index, indexed: set[str], listing: Listing, say: Notify) -> None:
    """Report the damage of the shards that were indexed now, and what makes reading slow or columns absent."""
    paths = {relative(listing.base, uri) for uri in indexed}
    damage = [item for item in made.damage if item.shard in paths]
    if damage:
        reasons = ", ".join(f"{reason} {count}" for reason, count in damage_summary(damage).items())
        first = damage[0]
        say(f"damage: {reasons}; first: {first.shard} at byte {first.offset}: {first.reason} ({first.detail})")
    if compressed := [shard.path for shard in made.shards if shard.coding]:
        say(f"{_count(len(compressed), 'shard')} are decompressed for every read; gunzip them: {_some(compressed)}")
    if made.format == "parquet":
        columns = {name for shard in made.shards for name in shard.fields}
        for name in sorted(columns):
            if lacking := [shard.path for shard in made.shards if shard.rows and name not in shard.fields]:
                say(f"column {name!r} is missing in {_count(len(lacking), 'shard')}: {_some(lacking)}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
