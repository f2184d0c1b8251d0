"""A finished local directory in, the same files at a local path or on S3 out: never half of them as if they were all.

A new local directory appears by one rename. Anywhere else `config.json`, without which nothing loads the rest, goes
first and comes last. `export.json` lists what was written, so that another export replaces that and nothing else.
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
from typing import Any

from xmodal import storage
from xmodal.checkpoint.marker import FileRecord, record_files
from xmodal.errors import ConfigError, StorageError
from xmodal.storage import NotFound, StorageOptions
from xmodal.storage.address import LocalAddress, parse
from xmodal.storage.local import PARTIAL, named_errors

MANIFEST = "export.json"
FIRST_AND_LAST = "config.json"
FORMAT = 1
LARGEST_EDITED = 16 << 20  # bytes; a larger file is nothing that a person edits, so its size tells enough


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an export goes, and what an earlier one left there."""

    uri: str
    options: StorageOptions
    fresh: Path | None  # the local path, where nothing is there yet
    names: frozenset[str]  # every file that is there
    earlier: tuple[FileRecord, ...]  # those of an earlier export

    def refuse_strangers(self, names: Collection[str]) -> None:
        """ConfigError where one of `names` is there already and no export wrote it."""
        ours = {record.path for record in self.earlier}
        if strangers := sorted(set(names) & self.names - ours):
            raise ConfigError(
                f"{self.uri} holds {', '.join(strangers)}, which no export wrote: move that away, or choose another "
                "folder"
            )


def claim(uri: str, names: Collection[str], *, overwrite: bool, options: StorageOptions) -> Place:
    """The place for files of these names, once it can be written to.

    ConfigError where something is there that must not be replaced.
    """
    storage.check(uri, writable=True, options=options)
    sizes = _sizes(uri, options)
    if sizes and not overwrite:
        raise ConfigError(
            f"{uri} holds {len(sizes)} file(s) ({', '.join(sorted(sizes)[:3])}): choose an empty folder, or give "
            "--overwrite to replace an earlier export"
        )
    earlier = _earlier(uri, options) if MANIFEST in sizes else ()
    changed = _changed(uri, sizes, earlier, options)
    if changed:
        raise ConfigError(
            f"{uri} holds {', '.join(changed)}, changed since it was exported: move it away first, or choose another "
            "folder"
        )
    place = Place(uri=uri, options=options, fresh=_fresh(uri), names=frozenset(sizes), earlier=earlier)
    place.refuse_strangers({*names, MANIFEST} if not earlier else names)
    return place


def _fresh(uri: str) -> Path | None:
    """The local path of a directory that is not there yet, or has nothing in it."""
    address = parse(uri)
    if not isinstance(address, LocalAddress):
        return None
    path = Path(os.path.realpath(address.path))
    return None if path.exists() and any(path.iterdir()) else path


@contextmanager
def staging(place: Place) -> Iterator[Path]:
    """An empty local directory to fill: beside a new local one, so that a rename is enough; removed in the end."""
    path = place.fresh
    if path is None:
        with TemporaryDirectory(prefix="xmodal-export-") as scratch:
            yield Path(scratch)
        return
    staged = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}{PARTIAL}")
    with named_errors(place.uri):
        staged.mkdir(parents=True)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def publish(staged: Path, place: Place, about: Mapping[str, Any]) -> tuple[FileRecord, ...]:
    """Bring every file of `staged` to its place; `about` goes into the list of files beside them.

    ConfigError for a file in the way that no export wrote; StorageError where storage fails, and nothing is left of a
    new export then.
    """
    records = record_files(staged)
    place.refuse_strangers([record.path for record in records])
    if place.fresh is not None:
        _rename(staged, place.fresh, place.uri, _manifest(about, records, finished=True))
    else:
        _replace(staged, place, about, records)
    return records


def _rename(staged: Path, path: Path, uri: str, manifest: bytes) -> None:
    with named_errors(uri):
        (staged / MANIFEST).write_bytes(manifest)
        for file in [each for each in staged.rglob("*") if each.is_file()]:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        os.rename(staged, path)


def _replace(staged: Path, place: Place, about: Mapping[str, Any], records: tuple[FileRecord, ...]) -> None:
    """File by file. Killed in between, what is there does not load, and the same command mends it."""
    new = {record.path for record in records}
    try:
        _write(place, MANIFEST, _manifest(about, place.earlier + records, finished=False))
        for name in sorted({record.path for record in place.earlier} - new | {FIRST_AND_LAST} & place.names):
            storage.delete(storage.join(place.uri, name), options=place.options)
        for name in sorted(new, key=lambda name: (name == FIRST_AND_LAST, name)):
            storage.upload(str(staged / name), storage.join(place.uri, name), options=place.options)
        _write(place, MANIFEST, _manifest(about, records, finished=True))
    except BaseException:
        if not place.names:
            with suppress(StorageError):  # what led here says more
                for name in (FIRST_AND_LAST, *new, MANIFEST):
                    storage.delete(storage.join(place.uri, name), options=place.options)
        raise


def _write(place: Place, name: str, data: bytes) -> None:
    storage.write(storage.join(place.uri, name), data, options=place.options)


def _manifest(about: Mapping[str, Any], records: tuple[FileRecord, ...], *, finished: bool) -> bytes:
    body = {"format": FORMAT, "finished": finished, **about, "files": [asdict(record) for record in records]}
    return (json.dumps(body, indent=1) + "\n").encode()


def _sizes(uri: str, options: StorageOptions) -> dict[str, int]:
    """Bytes of every file below `uri` by its path."""
    place = storage.absolute(uri).rstrip("/")
    try:
        found = storage.list_files(place, options=options)
    except NotFound:
        return {}
    if len(found) == 1 and found[0].uri == place:
        raise ConfigError(f"{uri} is a file: name a directory")
    return {entry.uri.removeprefix(f"{place}/"): entry.size for entry in found}


def _earlier(uri: str, options: StorageOptions) -> tuple[FileRecord, ...]:
    """What the list of an earlier export names; ConfigError where it is none of ours."""
    place = storage.join(uri, MANIFEST)
    try:
        listed = json.loads(storage.read(place, options=options))["files"]
        records = tuple(FileRecord(**record) for record in listed)
        for record in records:
            storage.join(uri, record.path)  # a name that leads out of the directory raises StorageError
        return records
    except (ValueError, KeyError, TypeError, AttributeError, StorageError) as error:
        raise ConfigError(f"{place} is not the list of an export ({error}): choose another folder") from error


def _changed(uri: str, sizes: Mapping[str, int], earlier: tuple[FileRecord, ...], options: StorageOptions) -> list[str]:
    """Files of an earlier export that are no longer as it wrote them; a list that was cut short holds two of a name."""
    known: dict[str, list[FileRecord]] = {}
    for record in earlier:
        known.setdefault(record.path, []).append(record)
    return sorted(
        name
        for name, records in known.items()
        if name in sizes and not any(_is_same(uri, sizes[name], record, options) for record in records)
    )


def _is_same(uri: str, size: int, record: FileRecord, options: StorageOptions) -> bool:
    if size != record.size or size > LARGEST_EDITED:
        return size == record.size
    data = storage.read(storage.join(uri, record.path), options=options)
    return hashlib.sha256(data).hexdigest() == record.sha256
