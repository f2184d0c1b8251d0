"""Downloads checkpoints and verifies every byte, falling back to an older one if the newest is damaged."""

import hashlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from xmodal import storage
from xmodal.callbacks import Notify
from xmodal.checkpoint import marker as markers
from xmodal.checkpoint.listing import (
    DEFAULT,
    CheckpointDirectory,
    CheckpointRef,
    list_directories,
    open_directory,
)
from xmodal.checkpoint.marker import FileRecord
from xmodal.errors import CheckpointError
from xmodal.storage import NotFound, ShortRead, StorageOptions

READ_BYTES = 32 << 20  # one request of `verify`; bounds its memory
RESCANS = 5  # how often `fetch_latest` lists again when retention deletes what it is reading


@dataclass(frozen=True, kw_only=True)
class RestoredCheckpoint:
    """A verified local copy of a checkpoint, and the reasons why newer ones were skipped."""

    path: Path
    checkpoint: CheckpointRef
    skipped: tuple[str, ...]


def fetch(
    checkpoint: CheckpointRef, into: Path, *, skip: Collection[str] = (), options: StorageOptions = DEFAULT
) -> Path:
    """Copy a checkpoint to `into/<name>` and verify it; returns the path of the copy.

    It is copied from local storage, too: the bytes that were hashed are then the bytes that are loaded, and neither
    retention nor an edit of the copy does harm. `skip` leaves out files by path (an evaluation needs no optimizer). A
    file that does not match is read once more. CheckpointError names every file that is missing or differs.
    """
    target = into / checkpoint.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    problems = []
    try:
        for record in checkpoint.files:
            if record.path not in skip:
                problems += _fetch_file(checkpoint, record, target / record.path, options)
        if problems:
            raise CheckpointError(f"{checkpoint.uri}: {'; '.join(problems)}")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def verify(checkpoint: CheckpointRef, *, options: StorageOptions = DEFAULT) -> None:
    """Read every file back from storage and compare its hash; CheckpointError names what differs."""
    problems = [problem for record in checkpoint.files for problem in _stored_differences(checkpoint, record, options)]
    if problems:
        raise CheckpointError(f"{checkpoint.uri}: {'; '.join(problems)}")


def fetch_latest(
    checkpoints_uri: str,
    into: Path,
    *,
    run_id: str,
    skip: Collection[str] = (),
    notify: Notify = lambda message: None,
    options: StorageOptions = DEFAULT,
) -> RestoredCheckpoint | None:
    """Fetch the newest checkpoint of this run that verifies, or return None if nothing was ever committed.

    `notify` receives what is wrong with each checkpoint that is skipped. Raises CheckpointError if there are
    checkpoints and none verifies: a run never starts again from step 0 unless it is told to.

    One process must call this for all ranks and send them `checkpoint`, which they `fetch`: if each rank called it,
    two ranks could fall back to different steps.
    """
    for _ in range(RESCANS):
        skipped: list[str] = []
        directories = list_directories(checkpoints_uri, options=options)
        for directory in directories:
            try:
                checkpoint = open_directory(directory, run_id=run_id, options=options)
                path = fetch(checkpoint, into, skip=skip, options=options)
                return RestoredCheckpoint(path=path, checkpoint=checkpoint, skipped=tuple(skipped))
            except CheckpointError as error:
                if directory.committed and not _has_marker(directory.uri, options):
                    break  # retention deleted it in the meantime: list again
                skipped.append(str(error))
                notify(str(error))
        else:
            _raise_if_any(checkpoints_uri, directories, skipped)
            return None
    raise CheckpointError(f"{checkpoints_uri}: checkpoints vanish as fast as they can be read; try again")


def _raise_if_any(checkpoints_uri: str, directories: list[CheckpointDirectory], skipped: list[str]) -> None:
    if any(directory.committed for directory in directories):
        raise CheckpointError(
            f"none of the checkpoints in {checkpoints_uri} can be used: {'; '.join(skipped)}; "
            "restore one from a backup, or start anew under another name"
        )


def _fetch_file(checkpoint: CheckpointRef, record: FileRecord, target: Path, options: StorageOptions) -> list[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    uri = storage.join(checkpoint.uri, record.path)
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


def _stored_differences(checkpoint: CheckpointRef, record: FileRecord, options: StorageOptions) -> Iterator[str]:
    uri = storage.join(checkpoint.uri, record.path)
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
