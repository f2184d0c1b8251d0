"""Random access to the bytes of a shard in memory, in an open file, or in storage."""

import io
import mmap
from typing import IO, Protocol, runtime_checkable

from xmodal import storage
from xmodal.storage import StorageOptions

WINDOW_BYTES = 8 << 20  # fetched at once while a shard is read from front to back


@runtime_checkable
class ByteSource(Protocol):
    """Something whose bytes can be read by position."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on; fewer only at the end."""
        ...


class MemorySource:
    """Bytes in memory, of which the first is at position `base` of the shard that they are a part of.

    >>> MemorySource(b"abcdef", base=100).read(102, 3)
    b'cde'
    """

    def __init__(self, data: bytes | mmap.mmap, base: int = 0) -> None:
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


class StorageSource:
    """An object in storage, read through one window of `window` bytes that stays in memory.

    Reads larger than the window bypass it. With an `etag`, every read is of that version or raises
    `storage.FileChanged`.
    """

    def __init__(
        self, uri: str, size: int, options: StorageOptions, *, etag: str | None = None, window: int = WINDOW_BYTES
    ) -> None:
        self.uri = uri
        self.size = size
        self.options = options
        self.etag = etag
        self.window = window
        self._window = MemorySource(b"")

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        if not self._window.base <= offset <= offset + length <= self._window.size:
            fetch_bytes = min(max(self.window, length), self.size - offset)
            data = storage.read(self.uri, offset, fetch_bytes, etag=self.etag, options=self.options)
            if fetch_bytes > self.window:
                return data
            self._window = MemorySource(data, offset)
        return self._window.read(offset, length)


class OverlaySource:
    """A source of which some bytes are in memory: reads that lie within `overlay` do not reach `source`."""

    def __init__(self, overlay: MemorySource, source: ByteSource) -> None:
        self.overlay = overlay
        self.source = source
        self.size = source.size

    def read(self, offset: int, length: int) -> bytes:
        inside = self.overlay.base <= offset and offset + length <= self.overlay.size
        return (self.overlay if inside else self.source).read(offset, length)


class RangeFile(io.RawIOBase):
    """A read-only file object over a byte source, for libraries that want a file."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.source.size}[whence]
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        rest = self.source.size - self.position
        length = rest if size is None or size < 0 else size
        data = self.source.read(self.position, max(0, min(length, rest)))
        self.position += len(data)
        return data
