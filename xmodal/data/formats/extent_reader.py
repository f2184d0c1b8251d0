"""Read the samples of one extent.

Every row of the index is returned, as a sample or with the reason why it cannot be delivered, even if the shard has
changed since it was indexed.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.data.extents import Corpus, RawSample, Shard
from xmodal.data.formats.byte_source import ByteSource, MemorySource, OverlaySource, RangeFile, StorageSource
from xmodal.data.formats.gzip_stream import inflate_range
from xmodal.data.formats.lru_cache import LRUCache
from xmodal.data.formats.parquet import PYARROW_ERRORS, columns_to_read, group_span, raw_samples
from xmodal.data.formats.tar import read_tar
from xmodal.errors import BadSample

ROW_GROUP_CACHE_BYTES = 256 << 20  # of decoded row groups, so that the extents of one row group decode it once
FOOTER_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class ExtentLocation:
    """One extent and where its bytes are."""

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

    def source(self, window: int = 0) -> StorageSource:
        """Return the shard in the version that was indexed; where the extent has a hash, any version."""
        etag = None if self.sha256 else self.shard.etag
        return StorageSource(self.uri, self.shard.size, self.options, etag=etag, window=window)

    def verify(self, data: bytes) -> bytes:
        """Return `data` if its hash is the indexed one; BadSample `hash_mismatch` otherwise."""
        if self.sha256 and hashlib.sha256(data).digest() != self.sha256:
            raise BadSample("hash_mismatch", f"bytes {self.offset} to {self.end} of {self.shard.path}")
        return data


_Reader = Callable[[ExtentLocation, Collection[str] | None], list[RawSample]]


def read_extent(corpus: Corpus, extent: int, *, columns: Collection[str] | None = None) -> list[RawSample]:
    """Return exactly `corpus.extents.rows[extent]` samples in row order; one that cannot be read has a `fault`.

    A shard that is missing, changed, too short or damaged is read once more before its rows are given up. Only
    `columns` (tar extensions or Parquet columns) are returned; None means all. Raises StorageError when storage
    itself fails.
    """
    selection = None if columns is None else frozenset(columns)
    location = locate_extent(corpus, extent)
    read = _read_parquet if corpus.format == "parquet" else _read_tar
    samples = _read_or_fault(read, location, selection)
    if samples[-1].fault and samples[-1].fault.reason != "missing_member":
        samples = _read_or_fault(read, location, selection)
    return samples


def locate_extent(corpus: Corpus, number: int) -> ExtentLocation:
    """Return where the bytes of an extent are."""
    e = corpus.extents
    shard = corpus.shards[e.shard[number]]
    return ExtentLocation(
        uri=storage.join(corpus.uri, shard.path),
        shard=shard,
        first_row=int(e.first_row[number]),
        rows=int(e.rows[number]),
        offset=int(e.offset[number]),
        length=int(e.length[number]),
        sha256=None if e.sha256 is None else e.sha256[number].tobytes(),
        options=corpus.options,
    )


def _read_or_fault(read: _Reader, extent: ExtentLocation, columns: Collection[str] | None) -> list[RawSample]:
    """Read an extent; where that fails, return its rows with the reason."""
    try:
        return read(extent, columns)
    except storage.NotFound:
        fault = BadSample("shard_missing", f"{extent.shard.path} is no longer there")
    except storage.FileChanged:
        fault = BadSample("shard_changed", f"{extent.shard.path} is not the one that was indexed")
    except storage.ShortRead:
        fault = BadSample("extent_short", f"{extent.shard.path} ends before byte {extent.end}")
    except BadSample as error:
        fault = error
    return [RawSample("", extent.offset, None, fault) for _ in range(extent.rows)]


def _read_tar(extent: ExtentLocation, columns: Collection[str] | None) -> list[RawSample]:
    source = MemorySource(read_tar_bytes(extent), extent.offset)
    return read_tar(source, extent.offset, source.size, extent.rows, columns)


def read_tar_bytes(extent: ExtentLocation) -> bytes:
    """Return the bytes of an extent of a tar, decompressed and verified; errors as those of storage, and BadSample."""
    if extent.shard.coding == "gzip":
        data = inflate_range(extent.source(window=8 << 20), extent.offset, extent.end)
    else:
        data = extent.source().read(extent.offset, extent.length)
    return extent.verify(data)


@dataclass(frozen=True)
class _Footer:
    """Metadata of a Parquet file, and the row at which each row group begins (and the last one ends)."""

    metadata: pq.FileMetaData
    starts: np.ndarray  # int64 [groups + 1]


_footers: LRUCache[_Footer] = LRUCache(FOOTER_CACHE_BYTES)
_tables: LRUCache[pa.Table] = LRUCache(ROW_GROUP_CACHE_BYTES)


def _read_parquet(extent: ExtentLocation, columns: Collection[str] | None) -> list[RawSample]:
    group = locate_row_group(extent)
    key = (*_version(extent), extent.sha256, group.number, columns)  # a table read without the hash is not verified
    table = _tables.get(key, lambda: read_row_group(extent, group, columns), lambda t: t.nbytes)
    numbers = range(extent.first_row, extent.first_row + extent.rows)
    return raw_samples(table.slice(extent.first_row - group.first_row, extent.rows), numbers, columns)


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file: its number, and the number of its first row in the file."""

    number: int
    first_row: int
    metadata: pq.FileMetaData


def _version(extent: ExtentLocation) -> tuple[object, ...]:
    return (extent.uri, extent.shard.etag, extent.shard.size, extent.options)


def locate_row_group(extent: ExtentLocation) -> RowGroup:
    """Return the row group that holds an extent, by the footer; BadSample where it is not where it was indexed."""
    footer = _footers.get(_version(extent), lambda: _read_footer(extent.source()), lambda f: f.metadata.serialized_size)
    group = int(np.searchsorted(footer.starts, extent.first_row, side="right")) - 1
    if group < 0 or extent.first_row + extent.rows > footer.starts[-1] or _group_offset(footer, group) != extent.offset:
        raise BadSample("shard_changed", f"its row groups no longer hold rows from {extent.first_row} on")
    if extent.first_row + extent.rows > footer.starts[group + 1]:
        raise BadSample("shard_changed", f"row group {group} holds fewer rows than the index says")
    return RowGroup(group, int(footer.starts[group]), footer.metadata)


def _group_offset(footer: _Footer, group: int) -> int:
    """Return where a row group's bytes begin; -1 where there is no such group."""
    return group_span(footer.metadata.row_group(group))[0] if group < footer.metadata.num_row_groups else -1


def _read_footer(source: ByteSource) -> _Footer:
    try:
        metadata = pq.ParquetFile(RangeFile(source)).metadata
    except PYARROW_ERRORS as error:
        raise BadSample("bad_footer", str(error)[:200]) from error
    rows = [max(0, metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)]
    return _Footer(metadata, np.cumsum([0, *rows], dtype=np.int64))


def read_row_group(extent: ExtentLocation, group: RowGroup, columns: Collection[str] | None) -> pa.Table:
    """Return all rows of the row group that holds an extent, with the columns that say what a row is called."""
    source: ByteSource = extent.source()
    if extent.sha256:
        data = extent.verify(source.read(extent.offset, extent.length))
        source = OverlaySource(MemorySource(data, extent.offset), source)
    try:
        file = pq.ParquetFile(RangeFile(source), metadata=group.metadata)
        names = columns_to_read(file.schema_arrow, columns)
        table: pa.Table = file.read_row_group(group.number, columns=names, use_threads=False)
    except PYARROW_ERRORS as error:
        raise BadSample("bad_page", f"row group {group.number}: {str(error)[:200]}") from error
    if extent.first_row - group.first_row + extent.rows > len(table):
        raise BadSample("shard_changed", f"row group {group.number} holds fewer rows than the index says")
    return table
