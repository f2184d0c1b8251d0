"""Bytes by position, from memory, from a file or from storage in windows: what the walkers of shards read."""

import io
from typing import IO, Protocol, runtime_checkable

from xmodal import storage
from xmodal.storage import StorageOptions

WINDOW = 8 << 20  # bytes fetched at once while a shard is walked


@runtime_checkable
class Source(Protocol):
    """A shard of `size` bytes."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        ...


class MemorySource:
    """Bytes that are there already; the first stands at position `base` of the shard they were cut from."""

    def __init__(self, data: bytes, base: int = 0) -> None:
        self.data = data
        self.base = base

    @property
    def size(self) -> int:
        return self.base + len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        begin = offset - self.base
        return self.data[begin : begin + length]


class FileSource:
    """An open, seekable file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(length)


class StoredSource:
    """An object in storage; one window of it is held in memory, and larger reads go past it.

    With an `etag`, every read is of that version or raises `storage.Changed`.
    """

    def __init__(
        self, uri: str, size: int, options: StorageOptions, *, etag: str | None = None, window: int = WINDOW
    ) -> None:
        self.uri = uri
        self.size = size
        self.options = options
        self.etag = etag
        self.window = window
        self._held = MemorySource(b"")

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        if not self._held.base <= offset <= offset + length <= self._held.size:
            wanted = min(max(self.window, length), self.size - offset)
            data = storage.read(self.uri, offset, wanted, etag=self.etag, options=self.options)
            if wanted > self.window:
                return data
            self._held = MemorySource(data, offset)
        return self._held.read(offset, length)


class OverlaidSource:
    """`below`, of which the bytes in `held` are at hand."""

    def __init__(self, held: MemorySource, below: Source) -> None:
        self.held = held
        self.below = below
        self.size = below.size

    def read(self, offset: int, length: int) -> bytes:
        inside = self.held.base <= offset and offset + length <= self.held.size
        return (self.held if inside else self.below).read(offset, length)


class RangeFile(io.RawIOBase):
    """A source as a read-only file, for readers that want one."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.source.size}[whence]
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        length = self.source.size - self.at if size is None or size < 0 else size
        data = self.source.read(self.at, max(0, min(length, self.source.size - self.at)))
        self.at += len(data)
        return data
