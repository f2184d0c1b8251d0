"""The commit marker of a checkpoint, `COMMITTED.json`, with the size and the hash of every file.

The marker is written last, so a checkpoint without one was never finished. It has a hash of itself and must equal its
canonical text byte for byte, so that a flipped bit in the marker is detected like one in a tensor.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xmodal.errors import CheckpointError

NAME = "COMMITTED.json"
FORMAT = 1  # to be raised when an older reader could misread the directory

_DIRECTORY = re.compile(r"step-(\d{9,})\.attempt-(\d+)")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of a checkpoint: its path below the directory, its size in bytes, and its SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Marker:
    """The content of a marker.

    `step` is the number of finished optimizer steps, `attempt` the start of the run that wrote the checkpoint (1, 2,
    ...), `corpora` the fingerprint of each corpus by name, `metadata` plain JSON of the caller.
    """

    run_id: str
    step: int
    attempt: int
    files: tuple[FileRecord, ...]
    corpora: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)


def directory_name(step: int, attempt: int) -> str:
    """Return the directory name of a checkpoint, which sorts by step as text.

    >>> directory_name(100, 2)
    'step-000000100.attempt-2'
    """
    return f"step-{step:09d}.attempt-{attempt}"


def parse_directory_name(name: str) -> tuple[int, int] | None:
    """Return (step, attempt) of a checkpoint directory's name, or None for any other name.

    >>> parse_directory_name("step-000000100.attempt-2")
    (100, 2)
    """
    match = _DIRECTORY.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def hash_file(path: Path) -> tuple[int, str]:
    """Return (bytes, SHA-256 in hex) of a file, without loading it into memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def record_files(directory: Path) -> tuple[FileRecord, ...]:
    """Return the size and hash of every file below `directory`, sorted by path; CheckpointError if there is none."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    if not paths:
        raise CheckpointError(f"{directory}: nothing was written into the checkpoint's directory")
    if directory / NAME in paths:
        raise CheckpointError(f"{directory}: {NAME} is written by the commit itself; give the file another name")
    records = []
    for path in paths:
        size, digest = hash_file(path)
        records.append(FileRecord(path=path.relative_to(directory).as_posix(), size=size, sha256=digest))
    return tuple(records)


def encode(marker: Marker) -> bytes:
    """Return the canonical text of a marker."""
    body = {"format": FORMAT, **asdict(marker)}
    return _dump({**body, "marker_sha256": hashlib.sha256(_dump(body)).hexdigest()})


def decode(data: bytes) -> Marker:
    """Return the marker that `encode` wrote; CheckpointError says what is wrong with anything else."""
    try:
        body = json.loads(data)
        _check_hash(body, data)
        return _build(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{NAME} is damaged ({_cause(data, error)})") from error


def _check_hash(body: dict[str, Any], data: bytes) -> None:
    if _dump(body) != data:
        raise ValueError("not its canonical text")
    claimed = body.pop("marker_sha256")
    if hashlib.sha256(_dump(body)).hexdigest() != claimed:
        raise ValueError("its own hash does not match")
    if body["format"] > FORMAT:
        raise CheckpointError(
            f"{NAME} has format {body['format']}, this xmodal reads up to {FORMAT}: use the xmodal that wrote it"
        )


def _build(body: dict[str, Any]) -> Marker:
    files = tuple(FileRecord(**record) for record in body["files"])
    for record in files:
        _check_path(record.path)
    fields = {key: value for key, value in body.items() if key not in ("format", "files")}
    return Marker(files=files, **fields)


def _check_path(path: str) -> None:
    """Raise CheckpointError for a path that leads out of the checkpoint's directory."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise CheckpointError(f"{NAME} names a file outside the checkpoint: {path!r}")


def _dump(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return (text + "\n").encode()


def _cause(data: bytes, error: Exception) -> str:
    return "empty" if not data else str(error)
