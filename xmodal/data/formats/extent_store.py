"""Extents on the local disk, laid out so that single rows can be read: what a widely shuffled order needs.

The rows of one extent are delivered over many steps, a few at a time. It is fetched from storage once, by whoever needs
it first, and every later row comes from here. Of an uncompressed tar on a local disk only the positions of its samples
are stored, and the rows are read from the tar itself. Files are written under a temporary name and renamed; a missing,
cut or foreign file is made again. Where the limit is reached, what was not used for longest makes room.
"""

import json
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmodal.data.extents import Corpus, RawSample
from xmodal.data.formats.byte_source import MemorySource
from xmodal.data.formats.extent_reader import (
    ExtentLocation,
    locate_extent,
    locate_row_group,
    read_extent,
    read_row_group,
    read_tar_bytes,
)
from xmodal.data.formats.parquet import raw_samples
from xmodal.data.formats.tar import read_tar
from xmodal.errors import BadSample
from xmodal.storage import FileChanged, NotFound, ShortRead
from xmodal.storage.address import LocalAddress, parse

SUFFIX, PARTIAL_SUFFIX = ".extent", ".begun"
PARTIAL_MAX_AGE_S = 3600.0
RESERVED_DISK_SHARE = 0.05  # of the disk that is never used
LAYOUT = "1"  # of the files; another one has other names
FIRST_ROW = b"xmodal_first_row"
_POSITION = np.dtype("<i8")


@dataclass(frozen=True, kw_only=True)
class ExtentStore:
    """The store of the machine that reads: its folder (`auto`: in the user's cache folder), and its limit in bytes."""

    folder: str = "auto"
    limit_bytes: int = 16 * 10**9

    @property
    def directory(self) -> Path:
        """Path of the folder."""
        if self.folder != "auto":
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmodal" / "extents"

    def read_rows(
        self, corpus: Corpus, extent: int, rows: Sequence[int], columns: Collection[str] | None
    ) -> list[RawSample]:
        """Return these rows of an extent, as `read_extent` returns all of them; faults included."""
        location = locate_extent(corpus, extent)
        selection = None if columns is None else frozenset(columns)
        read = self._read_parquet if corpus.format == "parquet" else self._read_tar
        try:
            return read(location, rows, selection)
        except (NotFound, FileChanged, ShortRead, BadSample):
            samples = read_extent(corpus, extent, columns=columns)  # reads again, and says what is wrong with each row
            return [samples[row] for row in rows]

    def _read_tar(self, extent: ExtentLocation, rows: Sequence[int], columns: frozenset[str] | None) -> list[RawSample]:
        local = isinstance(parse(extent.uri), LocalAddress)
        copied = not local or extent.shard.coding != "" or extent.sha256 is not None
        path = self._path(extent, ["copied" if copied else "positions", extent.rows])
        stored = _open_tar(path, extent, copied)
        if stored is None:
            data = read_tar_bytes(extent)
            stored = _StoredTar(_sample_starts(data, extent), data)
            self._write(path, [data if copied else b"", stored.starts.astype(_POSITION).tobytes()])
        spans = [(int(stored.starts[row]), int(stored.starts[row + 1])) for row in rows]
        source = extent.source() if stored.data is None else MemorySource(stored.data, extent.offset)
        return [
            sample
            for begin, end in spans
            for sample in read_tar(MemorySource(source.read(begin, end - begin), begin), begin, end, 1, columns)
        ]

    def _read_parquet(
        self, extent: ExtentLocation, rows: Sequence[int], columns: frozenset[str] | None
    ) -> list[RawSample]:
        """Read from the stored row group, which all extents in it share."""
        path = self._path(extent, sorted(columns) if columns is not None else None)
        stored = _open_row_group(path)
        if stored is None:
            group = locate_row_group(extent)
            table = read_row_group(extent, group, columns)
            sink = pa.BufferOutputStream()
            metadata = {**(table.schema.metadata or {}), FIRST_ROW: str(group.first_row).encode()}
            with pa.ipc.new_file(sink, table.schema.with_metadata(metadata)) as writer:
                writer.write_table(table)
            self._write(path, [sink.getvalue()])
            stored = table, group.first_row
        table, first_row = stored
        numbers = [extent.first_row + row for row in rows]
        return raw_samples(table.take([number - first_row for number in numbers]), numbers, columns)

    def _path(self, extent: ExtentLocation, detail: object) -> Path:
        """Return the file of the bytes that an extent lies in, in the version that was indexed."""
        shard = [extent.uri, extent.shard.size, extent.shard.etag, extent.shard.coding]
        span = [extent.offset, extent.length, (extent.sha256 or b"").hex()]
        digest = sha256(json.dumps([LAYOUT, shard, span, detail]).encode(errors="surrogateescape")).hexdigest()
        return self.directory / f"{digest[:32]}{SUFFIX}"

    def _write(self, path: Path, parts: Sequence[bytes | pa.Buffer]) -> None:
        """Write a file as a whole; without space for it, or on a disk that fails, it is left out."""
        partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if _make_space(partial.parent, sum(len(part) for part in parts), self.limit_bytes):
                with partial.open("wb") as file:
                    file.writelines(parts)
                partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _StoredTar:
    """Where the samples of an extent begin, and the last one ends; and its bytes, unless the tar is at hand."""

    starts: np.ndarray  # int64 [rows + 1]
    data: bytes | mmap.mmap | None


def _sample_starts(data: bytes, extent: ExtentLocation) -> np.ndarray:
    """Return where each sample of an extent begins, and where the last one ends; BadSample where one is damaged."""
    samples = read_tar(MemorySource(data, extent.offset), extent.offset, extent.end, extent.rows, ())
    for sample in samples:
        if sample.fault is not None:
            raise sample.fault
    return np.array([*(sample.offset for sample in samples), extent.offset + len(data)], np.int64)


def _open_tar(path: Path, extent: ExtentLocation, copied: bool) -> _StoredTar | None:
    """Return what is stored of an extent; None where nothing is, or where it is not whole."""
    length = extent.length if copied else 0
    positions = (extent.rows + 1) * _POSITION.itemsize
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != length + positions:
                return None
            file.seek(length)
            starts = np.frombuffer(file.read(positions), _POSITION)
            data = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) if copied else None
    except OSError:
        return None
    _mark_used(path)
    return _StoredTar(starts, data)


def _open_row_group(path: Path) -> tuple[pa.Table, int] | None:
    """Return the rows of a row group as they are stored, and the number of the first; None without them."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        first_row = int((table.schema.metadata or {})[FIRST_ROW])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return None
    _mark_used(path)
    return table, first_row


def _mark_used(path: Path) -> None:
    with suppress(OSError):
        os.utime(path)


def _make_space(folder: Path, size: int, limit: int) -> bool:
    """Remove what was not used for longest until `size` more bytes keep within the limit; return whether they fit."""
    now, files = time.time(), []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                status = entry.stat()
                if entry.name.endswith(SUFFIX):
                    files.append((status.st_mtime, status.st_size, entry.path))
                elif entry.name.endswith(PARTIAL_SUFFIX) and now - status.st_mtime > PARTIAL_MAX_AGE_S:
                    os.unlink(entry.path)
    total = sum(length for _, length, _ in files)
    disk = shutil.disk_usage(folder)
    room = min(limit - total, disk.free - round(RESERVED_DISK_SHARE * disk.total)) - size
    for _, length, path in sorted(files):
        if room >= 0:
            break
        with suppress(OSError):
            os.unlink(path)
        room += length
    return room >= 0
