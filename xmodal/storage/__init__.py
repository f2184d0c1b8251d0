"""A URI comes in, its bytes and listings go out: `s3://bucket/key`, `file:///path` or a plain local path.

Every function works on both kinds alike and raises StorageError, whose message names the URI, the cause and the mend.
S3 is reached at the endpoint, in the region and with the credentials of the standard AWS environment or profile.
Requests that fail for a passing reason are repeated (`retries` counts them); names are taken literally; directories
exist only through the files below them.
"""

from typing import Protocol, runtime_checkable

from xmodal.errors import StorageError
from xmodal.storage.address import LocalAddress, absolute, join, parse
from xmodal.storage.errors import Changed, NotFound, ShortRead
from xmodal.storage.local import Entry, LocalStore
from xmodal.storage.options import StorageOptions
from xmodal.storage.retry_counts import RetryCounts, retries

__all__ = [
    "Changed",
    "Entry",
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
    """Every file below `uri`, at any depth, sorted by URI; a file gives itself.

    Raises NotFound when nothing is there. Files that are being written, and the empty objects that stand for
    directories on S3, are not listed.
    """
    return _store(uri, options).list_files()


def stat(uri: str, *, options: StorageOptions = DEFAULT) -> Entry:
    """Size and etag of one file; NotFound when there is none, also for a directory."""
    return _store(uri, options).stat()


def exists(uri: str, *, options: StorageOptions = DEFAULT) -> bool:
    """Whether `uri` is a file or has files below it. Storage that cannot be reached raises StorageError."""
    return _store(uri, options).exists()


def read(
    uri: str,
    offset: int = 0,
    length: int | None = None,
    *,
    etag: str | None = None,
    options: StorageOptions = DEFAULT,
) -> bytes:
    """Exactly `length` bytes from byte `offset`, or all up to the end of the file.

    Raises NotFound, ShortRead when the file ends earlier, and Changed when `etag` is given and is not the file's.
    """
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset and length must not be negative: {offset}, {length}")
    return _store(uri, options).read(offset, length, etag)


def write(uri: str, data: bytes, *, options: StorageOptions = DEFAULT) -> None:
    """Store `data`, making directories as needed; a reader sees the old file or all of the new one."""
    _store(_file(uri), options).write(data)


def upload(local_path: str, uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Store a local file of any size in parts of 16 MiB; as atomic as `write`."""
    _store(_file(uri), options).upload(local_path)


def download(uri: str, local_path: str, *, options: StorageOptions = DEFAULT) -> None:
    """Fetch one file in parts of 16 MiB; `local_path` appears when all bytes are there and of one version."""
    _store(uri, options).download(local_path)


def delete(uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Delete one file; nothing happens when there is none."""
    _store(_file(uri), options).delete()


def delete_tree(uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Delete `uri` and everything below it; nothing happens when there is nothing. Refuses a bucket and `/`."""
    _store(uri, options).delete_tree()


def check(uri: str, *, writable: bool, options: StorageOptions = DEFAULT) -> None:
    """Return when `uri` can be used; otherwise raise one StorageError within 10 s, before any worker starts.

    To read, something must be stored there. To write, a small file is stored in the nearest directory and deleted.
    """
    _store(uri, options).check(writable=writable)


def _file(uri: str) -> str:
    if uri.endswith("/"):
        raise StorageError(f"{uri!r} names a directory; name a file in it")
    return uri
