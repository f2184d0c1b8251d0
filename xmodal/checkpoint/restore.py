"""A checkpoints directory in, the newest checkpoint whose every byte verifies out."""

import hashlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from xmodal import storage
from xmodal.checkpoint import marker as markers
from xmodal.checkpoint.listing import (
    DEFAULT,
    Directory,
    Found,
    Notify,
    list_directories,
    open_directory,
)
from xmodal.checkpoint.marker import FileRecord
from xmodal.errors import CheckpointError
from xmodal.storage import NotFound, ShortRead, StorageOptions

READ_BYTES = 32 << 20  # one request of `verify`; bounds its memory
RESCANS = 5  # how often `latest` looks again when retention removes what it is reading


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A verified local copy of a checkpoint, and the reasons why newer ones were passed over."""

    path: Path
    found: Found
    skipped: tuple[str, ...]


def fetch(found: Found, into: Path, *, skip: Collection[str] = (), options: StorageOptions = DEFAULT) -> Path:
    """A verified copy of the checkpoint at `into/<name>`; also from local storage, where it is a copy too.

    The bytes that were hashed are then the bytes that are loaded, and retention or an edit of the copy harms
    nobody. `skip` leaves out files by path (an evaluation needs no optimizer). A file that does not match is read
    once more. CheckpointError names every file that is missing or differs.
    """
    target = into / found.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    problems = []
    try:
        for record in found.files:
            if record.path not in skip:
                problems += _fetch_file(found, record, target / record.path, options)
        if problems:
            raise CheckpointError(f"{found.uri}: {'; '.join(problems)}")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def verify(found: Found, *, options: StorageOptions = DEFAULT) -> None:
    """Read every file back from storage and compare its hash; CheckpointError names what differs."""
    problems = [problem for record in found.files for problem in _read_back(found, record, options)]
    if problems:
        raise CheckpointError(f"{found.uri}: {'; '.join(problems)}")


def latest(
    checkpoints_uri: str,
    into: Path,
    *,
    run_id: str,
    skip: Collection[str] = (),
    notify: Notify = lambda message: None,
    options: StorageOptions = DEFAULT,
) -> Restored | None:
    """A verified copy of this run's newest checkpoint, falling back to the one before while one does not verify.

    None if nothing was ever committed. CheckpointError if something was and none of it verifies: a run never
    starts again from nothing without being told to. `notify` hears what was wrong with each one passed over.

    One process decides for all ranks: it calls this and sends them `found`, which they `fetch`. Asked separately, two
    ranks could fall back to different steps.
    """
    for _ in range(RESCANS):
        skipped: list[str] = []
        directories = list_directories(checkpoints_uri, options=options)
        for directory in directories:
            try:
                found = open_directory(directory, run_id=run_id, options=options)
                path = fetch(found, into, skip=skip, options=options)
                return Restored(path=path, found=found, skipped=tuple(skipped))
            except CheckpointError as error:
                if directory.committed and not _has_marker(directory.uri, options):
                    break  # retention removed it under our hands: look again
                skipped.append(str(error))
                notify(str(error))
        else:
            _raise_if_any(checkpoints_uri, directories, skipped)
            return None
    raise CheckpointError(f"{checkpoints_uri}: checkpoints vanish as fast as they can be read; try again")


def _raise_if_any(checkpoints_uri: str, directories: list[Directory], skipped: list[str]) -> None:
    if any(directory.committed for directory in directories):
        raise CheckpointError(
            f"none of the checkpoints in {checkpoints_uri} can be used: {'; '.join(skipped)}; "
            "restore one from a backup, or start anew under another name"
        )


def _fetch_file(found: Found, record: FileRecord, target: Path, options: StorageOptions) -> list[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    uri = storage.join(found.uri, record.path)
    problem = ""
    for _ in range(2):
        try:
            storage.download(uri, str(target), options=options)
        except NotFound:
            return [f"{record.path} is missing"]
        problem = _difference(record, *markers.hash_file(target))
        if not problem:
            return []
    return [problem]


def _read_back(found: Found, record: FileRecord, options: StorageOptions) -> Iterator[str]:
    uri = storage.join(found.uri, record.path)
    digest = hashlib.sha256()
    try:
        for start in range(0, record.size, READ_BYTES):
            length = min(READ_BYTES, record.size - start)
            digest.update(storage.read(uri, start, length, options=options))
    except (NotFound, ShortRead) as error:
        yield f"{record.path} cannot be read back ({error})"
        return
    if problem := _difference(record, record.size, digest.hexdigest()):
        yield problem


def _difference(record: FileRecord, size: int, digest: str) -> str:
    if size != record.size:
        return f"{record.path} has {size} bytes instead of {record.size}"
    return "" if digest == record.sha256 else f"the content of {record.path} does not match its SHA-256"


def _has_marker(uri: str, options: StorageOptions) -> bool:
    return storage.exists(storage.join(uri, markers.NAME), options=options)
