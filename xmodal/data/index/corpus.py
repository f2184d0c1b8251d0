"""Open a corpus: list its shards, index those that are new or changed, and store the index."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import combinations
from typing import Any

from xmodal import storage
from xmodal.callbacks import Notify
from xmodal.data.extents import (
    DEFAULT_STORAGE,
    Corpus,
    Damage,
    Extents,
    RawSample,
    Shard,
    ShardFormat,
    ShardIndex,
    damage_summary,
)
from xmodal.data.formats.extent_reader import read_extent
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index.extent_index import INDEX_NAME, CorpusIndex, DamagedIndexError
from xmodal.data.index.listing import Listing, list_shards
from xmodal.data.index.shard_indexer import index_shard, relative_path
from xmodal.errors import CorpusError, StorageError

__all__ = [
    "Corpus",
    "Damage",
    "Extents",
    "RawSample",
    "Shard",
    "ShardFormat",
    "ShardIndex",
    "damage_summary",
    "index_shard",
    "index_uri",
    "open_corpus",
    "read_extent",
]

STORE_EVERY_S = 20.0  # while shards are indexed: what a kill can cost ...
STORING_SHARE = 0.05  # ... or longer, so that storing takes no larger share of the time
MAX_IGNORED = 100  # paths in `Corpus.ignored`


def open_corpus(
    uri: str,
    *,
    index: str | None = None,
    options: storage.StorageOptions = DEFAULT_STORAGE,
    map_shards: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
    progress: Callable[[int, int], None] | None = None,
    notify: Notify | None = None,
    rebuild: bool = False,
    hash_extents: bool = False,
) -> Corpus:
    """Open the corpus at `uri`: a folder of shards, one shard, or a pattern (`s3://b/{00000..00012}.tar`, `*.parquet`).

    The index is stored in the corpus's folder, or in the folder `index`. Shards whose size or etag differs from the
    stored index are indexed again, by `map_shards(function, entries)`, which may run in parallel and return in any
    order; what is done is stored every 20 s, so that a start after a kill goes on from there. `progress(done, total)`
    counts them; `notify` receives messages about changes, damage and ignored files.
    `hash_extents` stores a SHA-256 of each extent, which every later read verifies. `rebuild` ignores the stored index.

    CorpusError: no shards, no usable sample, Parquet files with incompatible columns, an index of a newer xmodal.

    >>> from tempfile import mkdtemp
    >>> from xmodal.data.synthetic import write_corpus
    >>> folder = mkdtemp()
    >>> write_corpus(folder, "photo", rows=3, seed=0, size=32)
    >>> corpus = open_corpus(folder)
    >>> corpus.rows, corpus.fields
    (3, ('jpg', 'json', 'txt'))
    """
    say = notify or (lambda message: None)
    listing = list_shards(uri, options)
    _report_ignored(listing, say)
    index_path = index_uri(uri, listing, index)
    stored = None if rebuild else _load(index_path, listing, options, hash_extents, say)
    stale = _find_stale(listing, stored, say)
    hash_new = hash_extents or (stored is not None and stored.has_hashes)
    work = partial(index_shard, listing.base, options=options, hash_extents=hash_new)
    fresh: dict[str, ShardIndex] = {}
    store_at = time.monotonic() + STORE_EVERY_S
    for shard in _with_progress(map_shards(work, stale), len(stale), progress):
        fresh[shard.shard.path] = shard
        if time.monotonic() >= store_at and len(fresh) < len(stale):
            began = time.monotonic()
            _store(_index_of_done(listing, stored, stale, fresh), index_path, options, say)
            store_at = time.monotonic() + max(STORE_EVERY_S, (time.monotonic() - began) / STORING_SHARE)
    merged = stored_index.merge_index(listing.format, listing.paths, stored, fresh)
    _check(uri, merged)
    if stale or stored is None or len(stored.shards) != len(merged.shards):
        _store(merged, index_path, options, say)
    _report_damage(merged, {entry.uri for entry in stale}, listing, say)
    ignored = listing.ignored[:MAX_IGNORED]
    return Corpus(listing.base, merged.format, merged.shards, merged.extents, merged.damage, options, ignored)


def _index_of_done(
    listing: Listing, stored: CorpusIndex | None, stale: Iterable[storage.Entry], fresh: dict[str, ShardIndex]
) -> CorpusIndex:
    """Return the index of the shards that need not be indexed any more; the next start finds the others missing."""
    waiting = {relative_path(listing.base, entry.uri) for entry in stale} - fresh.keys()
    return stored_index.merge_index(
        listing.format, [path for path in listing.paths if path not in waiting], stored, fresh
    )


def index_uri(uri: str, listing: Listing, folder: str | None) -> str:
    """Return where the index of `uri` is stored: in the corpus's folder, or in `folder` under a hash of the URI."""
    canonical = uri.rstrip("/") if "://" in uri else os.path.abspath(uri)
    digest = hashlib.sha256(canonical.encode(errors="surrogateescape")).hexdigest()[:16]
    if folder is not None:
        return storage.join(folder, f"{digest}.parquet")
    name = INDEX_NAME if listing.is_folder else f"{INDEX_NAME}-{digest}"
    return storage.join(listing.base, f"{name}.parquet")


def _load(
    path: str, listing: Listing, options: storage.StorageOptions, hash_extents: bool, say: Notify
) -> CorpusIndex | None:
    """Return the stored index if it can be used for this listing."""
    try:
        stored = stored_index.load_index(path, options)
    except DamagedIndexError as error:
        say(f"the index {path} is damaged ({error}); building it again")
        return None
    if stored is None:
        return None
    if stored.format != listing.format:
        say(f"the index {path} is of {stored.format} shards, the corpus now has {listing.format}; building it again")
        return None
    if hash_extents and not stored.has_hashes:
        say(f"the index {path} has no hashes; building it again")
        return None
    return stored


def _find_stale(listing: Listing, stored: CorpusIndex | None, say: Notify) -> list[storage.Entry]:
    """Return the shards that are new or differ from the stored index in size or etag."""
    if stored is None:
        return list(listing.entries)
    versions = {shard.path: (shard.size, shard.etag) for shard in stored.shards}
    paths = dict(zip(listing.paths, listing.entries, strict=True))
    stale = {path: e for path, e in paths.items() if versions.get(path) != (e.size, e.etag)}
    for change, names in {
        "changed since it was indexed": [path for path in stale if path in versions],
        "not indexed yet": [path for path in stale if path not in versions],
        "no longer there": [path for path in versions if path not in paths],
    }.items():
        if names:
            say(f"{_count(len(names), 'shard')} {change}: {_list_some(names)}")
    return list(stale.values())


def _with_progress(
    results: Iterable[ShardIndex], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[ShardIndex]:
    """Yield the results, and call `progress(done, total)` after each."""
    for done, result in enumerate(results, 1):
        yield result
        if progress:
            progress(done, total)


def _check(uri: str, index: CorpusIndex) -> None:
    """Raise CorpusError where there is no usable sample, or where shards hold incompatible kinds of one column."""
    if not len(index.extents):
        worst = "; ".join(f"{d.shard} at byte {d.offset}: {d.reason} ({d.detail})" for d in index.damage[:3])
        raise CorpusError(
            f"none of the {_count(len(index.shards), 'shard')} of {uri} holds a usable sample: {worst}; "
            "replace the shards, or name another folder"
        )
    shard_of_kind: dict[str, dict[str, Shard]] = {}
    for shard in {(shard.fields, shard.kinds): shard for shard in index.shards}.values():
        for column, kind in zip(shard.fields, shard.kinds, strict=False):
            shard_of_kind.setdefault(column, {}).setdefault(kind, shard)
    for column, shards in shard_of_kind.items():
        for first, second in combinations(shards, 2):
            if not _are_compatible(first, second):
                raise CorpusError(_schema_conflict(uri, column, shards[first], shards[second]))


def _are_compatible(first: str, second: str) -> bool:
    """Return whether values of both kinds can be read as one column without loss."""
    pair = {first, second}
    return "null" in pair or pair == {"bytes", "text"} or pair == {"text", "texts"}


def _schema_conflict(uri: str, column: str, first: Shard, second: Shard) -> str:
    schemas = " and ".join(
        f"{shard.path} ({', '.join(f'{n}: {k}' for n, k in zip(shard.fields, shard.kinds, strict=True))})"
        for shard in (first, second)
    )
    return f"{uri}: column {column!r} differs between {schemas}; write both alike, or open them as two corpora"


def _store(index: CorpusIndex, path: str, options: storage.StorageOptions, say: Notify) -> None:
    try:
        storage.write(path, stored_index.dump_index(index), options=options)
    except StorageError as error:
        say(f"the index could not be stored, so the next start builds it again; name a writable folder for it: {error}")


def _report_ignored(listing: Listing, say: Notify) -> None:
    expected = ("_xmodal", "_refused.jsonl", "_SUCCESS")  # the index, and the records of `jobs.prepare`
    ignored = [path for path in listing.ignored if not path.startswith(expected)]
    metadata = [path for path in ignored if listing.format == "tar" and path.endswith(".parquet")]
    if metadata:
        say(f"the folder holds tar and Parquet files; the tars are the corpus, ignored: {_list_some(metadata)}")
    if others := [path for path in ignored if path not in set(metadata)]:
        say(f"ignored {_count(len(others), 'file')} in the folder of the shards: {_list_some(others)}")


def _report_damage(index: CorpusIndex, new_uris: set[str], listing: Listing, say: Notify) -> None:
    """Report the damage of the shards that were indexed now, compressed shards, and columns that some shards lack."""
    paths = {relative_path(listing.base, uri) for uri in new_uris}
    damage = [item for item in index.damage if item.shard in paths]
    if damage:
        reasons = ", ".join(f"{reason} {count}" for reason, count in damage_summary(damage).items())
        first = damage[0]
        say(f"damage: {reasons}; first: {first.shard} at byte {first.offset}: {first.reason} ({first.detail})")
    if compressed := [shard.path for shard in index.shards if shard.coding]:
        say(
            f"{_count(len(compressed), 'shard')} are decompressed for every read; gunzip them: {_list_some(compressed)}"
        )
    if index.format == "parquet":
        columns = {name for shard in index.shards for name in shard.fields}
        for name in sorted(columns):
            if lacking := [shard.path for shard in index.shards if shard.rows and name not in shard.fields]:
                say(f"column {name!r} is missing in {_count(len(lacking), 'shard')}: {_list_some(lacking)}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
