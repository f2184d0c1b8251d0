"""Reads, writes and lists files by URI: `s3://bucket/key`, `file:///path` or a plain local path.

Every function works on S3 and on local files and raises StorageError, whose message names the URI, the cause and the
fix. The S3 endpoint, region and credentials come from the standard AWS environment or profile. Requests that fail for
a temporary reason are repeated (`retries` counts them). Names are taken literally, and directories exist only through
the files in them.
"""

from typing import Protocol, runtime_checkable

from xmodal.errors import StorageError
from xmodal.storage.address import LocalAddress, absolute, join, parse
from xmodal.storage.errors import FileChanged, NotFound, ShortRead
from xmodal.storage.local import Entry, LocalStore
from xmodal.storage.options import StorageOptions
from xmodal.storage.retry_counts import RetryCounts, retries

__all__ = [
    "Entry",
    "FileChanged",
    "NotFound",
    "RetryCounts",
    "ShortRead",
    "StorageOptions",
    "absolute",
    "check",
    "delete",
    "delete_tree",
    "download",
    "exists",
    "join",
    "list_files",
    "read",
    "retries",
    "stat",
    "upload",
    "write",
]

DEFAULT = StorageOptions()


@runtime_checkable
class _Store(Protocol):
    def list_files(self) -> list[Entry]: ...
    def stat(self) -> Entry: ...
    def exists(self) -> bool: ...
    def read(self, offset: int, length: int | None, etag: str | None) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def upload(self, local_path: str) -> None: ...
    def download(self, local_path: str) -> None: ...
    def delete(self) -> None: ...
    def delete_tree(self) -> None: ...
    def check(self, *, writable: bool) -> None: ...


def _store(uri: str, options: StorageOptions) -> _Store:
    address = parse(uri)
    if isinstance(address, LocalAddress):
        return LocalStore(uri, address.prefix, address.path)
    from xmodal.storage.s3 import (
        S3Store,
    )  # botocore and aiohttp take half a second: only for those who use S3

    return S3Store(uri, address.bucket, address.key, options)


def list_files(uri: str, *, options: StorageOptions = DEFAULT) -> list[Entry]:
    """Return every file below `uri`, at any depth, sorted by URI; for a file, the file itself.

    Raises NotFound if nothing is there. Files that are being written, and the empty objects that represent directories
    on S3, are not listed.
    """
    return _store(uri, options).list_files()


def stat(uri: str, *, options: StorageOptions = DEFAULT) -> Entry:
    """Return size and etag of one file; NotFound if there is none, or if it is a directory."""
    return _store(uri, options).stat()


def exists(uri: str, *, options: StorageOptions = DEFAULT) -> bool:
    """Return whether `uri` is a file or has files below it; StorageError if the storage cannot be reached."""
    return _store(uri, options).exists()


def read(
    uri: str,
    offset: int = 0,
    length: int | None = None,
    *,
    etag: str | None = None,
    options: StorageOptions = DEFAULT,
) -> bytes:
    """Return exactly `length` bytes from byte `offset`, or all up to the end of the file.

    Raises NotFound, ShortRead if the file ends earlier, and FileChanged if `etag` is given and is not the file's.
    """
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset and length must not be negative: {offset}, {length}")
    return _store(uri, options).read(offset, length, etag)


def write(uri: str, data: bytes, *, options: StorageOptions = DEFAULT) -> None:
    """Store `data` and create directories as needed; a reader sees either the old file or all of the new one."""
    _store(_file(uri), options).write(data)


def upload(local_path: str, uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Store a local file of any size in parts of 16 MiB; atomic like `write`."""
    _store(_file(uri), options).upload(local_path)


def download(uri: str, local_path: str, *, options: StorageOptions = DEFAULT) -> None:
    """Fetch one file in parts of 16 MiB; `local_path` appears once it has all bytes of one version."""
    _store(uri, options).download(local_path)


def delete(uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Delete one file, if it exists."""
    _store(_file(uri), options).delete()


def delete_tree(uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Delete `uri` and everything below it, if there is anything; StorageError for a whole bucket and for `/`."""
    _store(uri, options).delete_tree()


def check(uri: str, *, writable: bool, options: StorageOptions = DEFAULT) -> None:
    """Raise StorageError within 10 s if `uri` cannot be read, or with `writable` cannot be written.

    A readable URI has something stored there. To test writing, an empty file is stored in the nearest existing
    directory and deleted.
    """
    _store(uri, options).check(writable=writable)


def _file(uri: str) -> str:
    if uri.endswith("/"):
        raise StorageError(f"{uri!r} names a directory; name a file in it")
    return uri
