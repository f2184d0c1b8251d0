"""Uploads a local directory as a committed checkpoint, and deletes checkpoints."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xmodal import storage
from xmodal.checkpoint import marker as markers
from xmodal.checkpoint.listing import DEFAULT, CheckpointRef
from xmodal.checkpoint.marker import Marker
from xmodal.errors import CheckpointError, XmodalError
from xmodal.storage import StorageOptions


def commit(
    local_dir: Path,
    checkpoints_uri: str,
    *,
    run_id: str,
    attempt: int,
    step: int,
    corpora: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    before_marker: Callable[[], None] = lambda: None,
    options: StorageOptions = DEFAULT,
) -> CheckpointRef:
    """Upload every file of `local_dir`, then the marker that makes them a checkpoint.

    If the process is killed at any moment, the result is either a complete checkpoint or one without marker, which
    readers ignore. `before_marker` runs between the data and the marker and may raise to abandon the commit, for
    instance because a newer attempt of the run has taken over. Raises CheckpointError if the same step and attempt is
    committed already.
    """
    uri = storage.join(checkpoints_uri, markers.directory_name(step, attempt))
    _clear_unfinished(uri, options)
    marker = Marker(
        run_id=run_id,
        step=step,
        attempt=attempt,
        files=markers.record_files(local_dir),
        corpora=dict(corpora or {}),
        metadata=dict(metadata or {}),
    )
    try:
        _upload(local_dir, uri, marker, before_marker, options)
    except Exception:
        with suppress(OSError, XmodalError):  # do not leave half a checkpoint on a full disk
            delete_checkpoint(uri, options=options)
        raise
    return CheckpointRef(uri=uri, marker=marker)


def delete_checkpoint(uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Delete a checkpoint, its marker first, so that an interrupted deletion looks like an unfinished checkpoint."""
    storage.delete(storage.join(uri, markers.NAME), options=options)
    storage.delete_tree(uri, options=options)


def _upload(
    local_dir: Path, uri: str, marker: Marker, before_marker: Callable[[], None], options: StorageOptions
) -> None:
    text = markers.encode(marker)
    by_size = sorted(marker.files, key=lambda record: record.size)  # small files first: a listing soon shows the upload
    for record in by_size:
        storage.upload(str(local_dir / record.path), storage.join(uri, record.path), options=options)
    before_marker()
    storage.write(storage.join(uri, markers.NAME), text, options=options)


def _clear_unfinished(uri: str, options: StorageOptions) -> None:
    """Delete what an earlier failed upload left; a committed checkpoint is never overwritten."""
    if storage.exists(storage.join(uri, markers.NAME), options=options):
        raise CheckpointError(
            f"{uri} is committed already; a run that continues from an earlier step needs a higher attempt"
        )
    storage.delete_tree(uri, options=options)
