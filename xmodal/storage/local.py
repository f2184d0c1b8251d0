"""The local file system as a store: atomic writes, listings, and errors that name the fix."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from stat import S_ISREG

from xmodal.errors import StorageError
from xmodal.storage.errors import FileChanged, NotFound, ShortRead

PARTIAL = ".xmodal-partial"  # the suffix of a file that is being written; no listing shows it
COPY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored file: `size` in bytes; `etag` changes when the content changes.

    A local etag is made of the modification time (in ns) and the size; on S3 it is the server's.
    """

    uri: str
    size: int
    etag: str


@contextmanager
def as_storage_errors(uri: str) -> Iterator[None]:
    """Convert errors of the operating system into StorageError about `uri`."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{uri} does not exist; check the path") from error
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror or error}; {_fix(error)}") from error


def _fix(error: OSError) -> str:
    return {
        errno.EACCES: "check the permissions of the file and its directories",
        errno.EPERM: "check the permissions of the file and its directories",
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EROFS: "use a directory on a file system mounted for writing",
        errno.EISDIR: "name a file",
        errno.EEXIST: "one of the directories in the path is a file",
        errno.ENOTDIR: "one of the directories in the path is a file",
        errno.ENAMETOOLONG: "use a shorter name",
    }.get(error.errno or 0, "check the file system")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: str) -> Iterator[int]:
    """Yield a descriptor to write to; at the end `path` is replaced at once, or stays as it was after an error."""
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    partial = os.path.join(directory, f".{name[:180]}.{secrets.token_hex(6)}{PARTIAL}")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    _sync_directory(directory)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, by several system calls if necessary."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read_all(descriptor: int, length: int, offset: int) -> bytes:
    """Return `length` bytes from `offset`, fewer only at the end of the file, by several system calls if necessary."""
    parts = []
    while length and (part := os.pread(descriptor, min(length, 1 << 30), offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def copy(source: str, target: str, target_path: str) -> None:
    """Copy one local file to `target_path`, called `target` in errors; FileChanged if the source changes meanwhile."""
    with as_storage_errors(source), open(source, "rb", buffering=0) as file:
        size, offset = os.fstat(file.fileno()).st_size, 0
        with as_storage_errors(target), atomic_write(target_path) as descriptor:
            while part := file.read(COPY_BYTES):
                write_all(descriptor, part, offset)
                offset += len(part)
            if offset != size:
                raise FileChanged(f"{source} changed while it was copied; copy it when nobody writes to it")


@dataclass(frozen=True, slots=True)
class LocalStore:
    """The file or directory at `path`; `uri` is what the user wrote, and URIs of listed files begin with `prefix`."""

    uri: str
    prefix: str
    path: str

    def list_files(self) -> list[Entry]:
        with as_storage_errors(self.uri):
            if not os.path.isdir(self.path):
                return [self.stat()]
            return sorted(self._walk(self.path, frozenset()), key=lambda entry: entry.uri)

    def _walk(self, directory: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
        """Yield the regular files below `directory`, also through links.

        `above` has the directories on the way, so that a link to one of them is not followed.
        """
        status = os.stat(directory)
        inside = above | {(status.st_dev, status.st_ino)}
        if len(inside) == len(above):
            return
        with os.scandir(directory) as entries:
            children = list(entries)
        for child in children:
            if child.is_dir():
                yield from self._walk(child.path, inside)
            elif not child.name.endswith(PARTIAL):
                yield from self._entry(child)

    def _entry(self, child: "os.DirEntry[str]") -> Iterator[Entry]:
        try:
            status = child.stat()
        except FileNotFoundError:
            if child.is_symlink() and os.path.lexists(child.path):
                raise StorageError(f"{child.path} is a link to nothing; remove it or restore its target") from None
            return  # deleted since the directory was read
        if S_ISREG(status.st_mode):
            yield Entry(self.prefix + child.path, status.st_size, _etag(status))

    def stat(self) -> Entry:
        with as_storage_errors(self.uri):
            status = os.stat(self.path)
            if not S_ISREG(status.st_mode):
                raise NotFound(f"{self.uri} is not a file; name a file")
            return Entry(self.uri, status.st_size, _etag(status))

    def exists(self) -> bool:
        with as_storage_errors(self.uri):
            if os.path.isdir(self.path):
                return any(True for _ in self._walk(self.path, frozenset()))
            return os.path.isfile(self.path)

    def read(self, offset: int, length: int | None, etag: str | None) -> bytes:
        with as_storage_errors(self.uri):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return self._read(descriptor, offset, length, etag)
            finally:
                os.close(descriptor)

    def _read(self, descriptor: int, offset: int, length: int | None, etag: str | None) -> bytes:
        status = os.fstat(descriptor)
        if etag is not None and etag != _etag(status):
            raise FileChanged(f"{self.uri} has changed since it was listed; index it again")
        wanted = status.st_size - offset if length is None else length
        data = read_all(descriptor, wanted, offset) if wanted > 0 else b""
        if len(data) != wanted:
            raise ShortRead(f"{self.uri} ends at byte {status.st_size}, before byte {offset + max(wanted, 0)}")
        return data

    def write(self, data: bytes) -> None:
        with as_storage_errors(self.uri), atomic_write(self.path) as descriptor:
            write_all(descriptor, data, 0)

    def upload(self, local_path: str) -> None:
        copy(local_path, self.uri, self.path)

    def download(self, local_path: str) -> None:
        copy(self.path, local_path, local_path)

    def delete(self) -> None:
        with as_storage_errors(self.uri), suppress(FileNotFoundError):
            os.unlink(self.path)

    def delete_tree(self) -> None:
        if os.path.abspath(self.path) == "/":
            raise StorageError(f"{self.uri} is the root of the file system; name a directory below it")
        if not os.path.isdir(self.path) or os.path.islink(self.path):
            self.delete()
            return
        with as_storage_errors(self.uri):
            while os.path.isdir(self.path):
                with suppress(FileNotFoundError):  # another process deletes the same tree: continue with the rest
                    shutil.rmtree(self.path)

    def check(self, *, writable: bool) -> None:
        with as_storage_errors(self.uri):
            if writable:
                self._check_writable()
            elif os.path.isfile(self.path):
                self.read(0, 0, None)
            elif not self.exists():
                raise NotFound(f"{self.uri}: no file is stored there; check the path")

    def _check_writable(self) -> None:
        """Create and delete an empty file in the nearest directory that exists."""
        path = parent = os.path.abspath(self.path)
        while not os.path.isdir(parent) and (parent == path or not os.path.lexists(parent)):
            parent = os.path.dirname(parent)
        test_file = os.path.join(parent, f".{secrets.token_hex(6)}{PARTIAL}")
        os.close(os.open(test_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.unlink(test_file)
