"""An extent comes in, its samples go out: every row accounted for, whatever has become of the shard since indexing."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import Corpus, RawSample, Shard
from xmodal.data.formats.byte_source import MemorySource, OverlaidSource, RangeFile, Source, StoredSource
from xmodal.data.formats.gzip_stream import inflated_range
from xmodal.data.formats.lru_cache import Kept
from xmodal.data.formats.parquet import UNREADABLE, columns_to_read, group_span, raw_samples
from xmodal.data.formats.tar import read_tar
from xmodal.errors import BadSample

KEPT_ROWS = 256 << 20  # bytes of decoded row groups: extents of one row group that are read together decode it once
KEPT_FOOTERS = 64 << 20


@dataclass(frozen=True)
class _Extent:
    """One extent, with all that it takes to read it."""

    uri: str
    shard: Shard
    first_row: int
    rows: int
    offset: int
    length: int
    sha256: bytes | None
    options: storage.StorageOptions

    @property
    def end(self) -> int:
        return self.offset + self.length

    def source(self, window: int = 0) -> StoredSource:
        """The shard as it was indexed; where the extent has a hash, that decides instead of the etag."""
        etag = None if self.sha256 else self.shard.etag
        return StoredSource(self.uri, self.shard.size, self.options, etag=etag, window=window)

    def verified(self, data: bytes) -> bytes:
        """`data`, if it is what was indexed; BadSample `hash_mismatch` otherwise."""
        if self.sha256 and hashlib.sha256(data).digest() != self.sha256:
            raise BadSample("hash_mismatch", f"bytes {self.offset} to {self.end} of {self.shard.path}")
        return data


def read_extent(corpus: Corpus, extent: int, *, columns: Collection[str] | None = None) -> list[RawSample]:
    """Exactly `corpus.extents.rows[extent]` samples in row order; what cannot be delivered carries its fault.

    A shard that is missing, changed, too short or damaged is read once more before its rows are given up. Only
    `columns` (tar extensions or Parquet columns) are returned; None means all. Raises StorageError when storage
    itself fails.
    """
    wanted = None if columns is None else frozenset(columns)
    chosen = _extent(corpus, extent)
    read = _read_parquet if corpus.format == "parquet" else _read_tar
    samples = _attempt(read, chosen, wanted)
    if samples[-1].fault and samples[-1].fault.reason != "missing_member":
        samples = _attempt(read, chosen, wanted)
    return samples


def _extent(corpus: Corpus, number: int) -> _Extent:
    e = corpus.extents
    shard = corpus.shards[e.shard[number]]
    return _Extent(
        uri=storage.join(corpus.uri, shard.path),
        shard=shard,
        first_row=int(e.first_row[number]),
        rows=int(e.rows[number]),
        offset=int(e.offset[number]),
        length=int(e.length[number]),
        sha256=None if e.sha256 is None else e.sha256[number].tobytes(),
        options=corpus.options,
    )


def _attempt(read: Any, extent: _Extent, wanted: Collection[str] | None) -> list[RawSample]:
    try:
        return read(extent, wanted)
    except storage.NotFound:
        fault = BadSample("shard_missing", f"{extent.shard.path} is no longer there")
    except storage.Changed:
        fault = BadSample("shard_changed", f"{extent.shard.path} is not the one that was indexed")
    except storage.ShortRead:
        fault = BadSample("extent_short", f"{extent.shard.path} ends before byte {extent.end}")
    except BadSample as own:
        fault = own
    return [RawSample("", extent.offset, None, fault) for _ in range(extent.rows)]


def _read_tar(extent: _Extent, wanted: Collection[str] | None) -> list[RawSample]:
    if extent.shard.coding == "gzip":
        data = inflated_range(extent.source(window=8 << 20), extent.offset, extent.end)
    else:
        data = extent.source().read(extent.offset, extent.length)
    held = MemorySource(extent.verified(data), extent.offset)
    return read_tar(held, extent.offset, held.size, extent.rows, wanted)


@dataclass(frozen=True)
class _Footer:
    """Metadata of a Parquet file and the first row of each row group."""

    metadata: pq.FileMetaData
    starts: np.ndarray  # int64 [groups + 1]


_footers: Kept[_Footer] = Kept(KEPT_FOOTERS)
_tables: Kept[pa.Table] = Kept(KEPT_ROWS)


def _read_parquet(extent: _Extent, wanted: Collection[str] | None) -> list[RawSample]:
    version = (extent.uri, extent.shard.etag, extent.shard.size, extent.options)
    footer = _footers.get(version, lambda: _read_footer(extent.source()), lambda f: f.metadata.serialized_size)
    group = int(np.searchsorted(footer.starts, extent.first_row, side="right")) - 1
    if group < 0 or extent.first_row + extent.rows > footer.starts[-1] or group_offset(footer, group) != extent.offset:
        raise BadSample("shard_changed", f"its row groups no longer hold rows from {extent.first_row} on")
    key = (*version, extent.sha256, group, wanted)  # with the hash: what was read without is not verified
    table = _tables.get(key, lambda: _read_group(extent, footer, group, wanted), lambda t: t.nbytes)
    rows = table.slice(extent.first_row - int(footer.starts[group]), extent.rows)
    if len(rows) != extent.rows:
        raise BadSample("shard_changed", f"row group {group} holds fewer rows than the index says")
    return raw_samples(rows, extent.first_row, wanted)


def group_offset(footer: _Footer, group: int) -> int:
    return group_span(footer.metadata.row_group(group))[0] if group < footer.metadata.num_row_groups else -1


def _read_footer(source: Source) -> _Footer:
    try:
        metadata = pq.ParquetFile(RangeFile(source)).metadata
    except UNREADABLE as error:
        raise BadSample("bad_footer", str(error)[:200]) from error
    rows = [max(0, metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]
    return _Footer(metadata, np.cumsum([0, *rows], dtype=np.int64))


def _read_group(extent: _Extent, footer: _Footer, group: int, wanted: Collection[str] | None) -> pa.Table:
    source: Source = extent.source()
    if extent.sha256:
        data = extent.verified(source.read(extent.offset, extent.length))
        source = OverlaidSource(MemorySource(data, extent.offset), source)
    try:
        file = pq.ParquetFile(RangeFile(source), metadata=footer.metadata)
        return file.read_row_group(group, columns=columns_to_read(file.schema_arrow, wanted), use_threads=False)
    except UNREADABLE as error:
        raise BadSample("bad_page", f"row group {group}: {str(error)[:200]}") from error
