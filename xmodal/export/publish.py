"""Publish a finished local directory to a local path or S3 so that a half-written copy is never mistaken for a whole.

A new local directory appears by one rename. Anywhere else `config.json`, without which nothing loads the rest, is
deleted first and written last. `export.json` lists what was written, so that the next export replaces those files and
no others.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from xmodal import storage
from xmodal.checkpoint.marker import FileRecord, record_files
from xmodal.errors import ConfigError, StorageError
from xmodal.storage import NotFound, StorageOptions
from xmodal.storage.address import LocalAddress, parse
from xmodal.storage.local import PARTIAL, as_storage_errors

MANIFEST = "export.json"
ENTRY_FILE = "config.json"  # deleted first and written last: what is left of an interrupted export does not load
FORMAT = 1
MAX_HASHED_BYTES = 16 << 20  # nobody edits a larger file by hand, so its size is enough to see that it is unchanged


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """The directory that an export goes to, and what is there already."""

    uri: str
    options: StorageOptions
    new_path: Path | None  # the local path, where it does not exist yet or is empty
    existing: frozenset[str]  # every file that is there
    previous: tuple[FileRecord, ...]  # the files of an earlier export

    def raise_if_foreign(self, names: Collection[str]) -> None:
        """Raise ConfigError where one of `names` exists and no export wrote it."""
        exported = {record.path for record in self.previous}
        if foreign := sorted(set(names) & self.existing - exported):
            raise ConfigError(
                f"{self.uri} holds {', '.join(foreign)}, which no export wrote: move that away, or choose another "
                "folder"
            )


def prepare_target(uri: str, names: Collection[str], *, overwrite: bool, options: StorageOptions) -> ExportTarget:
    """Return the target for files of these names, after checking that it can be written.

    ConfigError where something is there that must not be replaced.
    """
    storage.check(uri, writable=True, options=options)
    sizes = _file_sizes(uri, options)
    if sizes and not overwrite:
        raise ConfigError(
            f"{uri} holds {len(sizes)} file(s) ({', '.join(sorted(sizes)[:3])}): choose an empty folder, or give "
            "--overwrite to replace an earlier export"
        )
    previous = _previous_export(uri, options) if MANIFEST in sizes else ()
    edited = _edited_files(uri, sizes, previous, options)
    if edited:
        raise ConfigError(
            f"{uri} holds {', '.join(edited)}, changed since it was exported: move it away first, or choose another "
            "folder"
        )
    target = ExportTarget(
        uri=uri, options=options, new_path=_new_local_path(uri), existing=frozenset(sizes), previous=previous
    )
    target.raise_if_foreign({*names, MANIFEST} if not previous else names)
    return target


def _new_local_path(uri: str) -> Path | None:
    """Return the local path of a directory that does not exist or is empty; None for any other target."""
    address = parse(uri)
    if not isinstance(address, LocalAddress):
        return None
    path = Path(os.path.realpath(address.path))
    return None if path.exists() and any(path.iterdir()) else path


@contextmanager
def staging_directory(target: ExportTarget) -> Iterator[Path]:
    """Yield an empty local directory to fill, and remove it in the end.

    For a new local target it lies on the same file system, so that a rename publishes it.
    """
    path = target.new_path
    if path is None:
        with TemporaryDirectory(prefix="xmodal-export-") as scratch:
            yield Path(scratch)
        return
    staged = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}{PARTIAL}")
    with as_storage_errors(target.uri):
        staged.mkdir(parents=True)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def publish(staged: Path, target: ExportTarget, about: Mapping[str, object]) -> tuple[FileRecord, ...]:
    """Move every file of `staged` to the target; `about` goes into `export.json` with the list of files.

    ConfigError for an existing file that no export wrote. StorageError where storage fails; nothing is left of a new
    export then.
    """
    records = record_files(staged)
    target.raise_if_foreign([record.path for record in records])
    if target.new_path is not None:
        _rename(staged, target.new_path, target.uri, _manifest(about, records, finished=True))
    else:
        _replace_files(staged, target, about, records)
    return records


def _rename(staged: Path, path: Path, uri: str, manifest: bytes) -> None:
    with as_storage_errors(uri):
        (staged / MANIFEST).write_bytes(manifest)
        for file in [each for each in staged.rglob("*") if each.is_file()]:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        os.rename(staged, path)


def _replace_files(
    staged: Path, target: ExportTarget, about: Mapping[str, object], records: tuple[FileRecord, ...]
) -> None:
    """Replace the files one by one; after an interruption the rest does not load, and the same export completes it."""
    new = {record.path for record in records}
    outdated = {record.path for record in target.previous} - new | {ENTRY_FILE} & target.existing
    try:
        _write(target, MANIFEST, _manifest(about, target.previous + records, finished=False))
        for name in sorted(outdated):
            storage.delete(storage.join(target.uri, name), options=target.options)
        for name in sorted(new, key=lambda name: (name == ENTRY_FILE, name)):
            storage.upload(str(staged / name), storage.join(target.uri, name), options=target.options)
        _write(target, MANIFEST, _manifest(about, records, finished=True))
    except BaseException:
        if not target.existing:
            with suppress(StorageError):  # the first error says more
                for name in (ENTRY_FILE, *new, MANIFEST):
                    storage.delete(storage.join(target.uri, name), options=target.options)
        raise


def _write(target: ExportTarget, name: str, data: bytes) -> None:
    storage.write(storage.join(target.uri, name), data, options=target.options)


def _manifest(about: Mapping[str, object], records: tuple[FileRecord, ...], *, finished: bool) -> bytes:
    """Return the content of `export.json`."""
    body = {"format": FORMAT, "finished": finished, **about, "files": [asdict(record) for record in records]}
    return (json.dumps(body, indent=1) + "\n").encode()


def _file_sizes(uri: str, options: StorageOptions) -> dict[str, int]:
    """Return the size in bytes of every file below `uri`, by its path in the directory."""
    root = storage.absolute(uri).rstrip("/")
    try:
        entries = storage.list_files(root, options=options)
    except NotFound:
        return {}
    if len(entries) == 1 and entries[0].uri == root:
        raise ConfigError(f"{uri} is a file: name a directory")
    return {entry.uri.removeprefix(f"{root}/"): entry.size for entry in entries}


def _previous_export(uri: str, options: StorageOptions) -> tuple[FileRecord, ...]:
    """Return the files that `export.json` lists; ConfigError where it is not the manifest of an export."""
    manifest_uri = storage.join(uri, MANIFEST)
    try:
        files = json.loads(storage.read(manifest_uri, options=options))["files"]
        records = tuple(FileRecord(**record) for record in files)
        for record in records:
            storage.join(uri, record.path)  # a name that leads out of the directory raises StorageError
        return records
    except (ValueError, KeyError, TypeError, AttributeError, StorageError) as error:
        raise ConfigError(f"{manifest_uri} is not the list of an export ({error}): choose another folder") from error


def _edited_files(
    uri: str, sizes: Mapping[str, int], previous: tuple[FileRecord, ...], options: StorageOptions
) -> list[str]:
    """Return the files of an earlier export that have changed since.

    The manifest of an interrupted export lists a replaced file twice: either version counts as unchanged.
    """
    versions: dict[str, list[FileRecord]] = {}
    for record in previous:
        versions.setdefault(record.path, []).append(record)
    return sorted(
        name
        for name, records in versions.items()
        if name in sizes and not any(_is_unchanged(uri, sizes[name], record, options) for record in records)
    )


def _is_unchanged(uri: str, size: int, record: FileRecord, options: StorageOptions) -> bool:
    if size != record.size or size > MAX_HASHED_BYTES:
        return size == record.size
    data = storage.read(storage.join(uri, record.path), options=options)
    return hashlib.sha256(data).hexdigest() == record.sha256
