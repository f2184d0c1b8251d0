"""A filled local directory in, a committed checkpoint in storage out."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xmodal import storage
from xmodal.checkpoint import marker as markers
from xmodal.checkpoint.listing import DEFAULT, Found
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
) -> Found:
    """Upload every file of `local_dir`, then the marker that makes them a checkpoint.

    Killed at any moment, this leaves either a whole checkpoint or one without marker, which no reader considers.
    `before_marker` runs between the data and the marker and may raise to abandon the commit (a fence against a
    process that another attempt has replaced). CheckpointError if the same step and attempt is committed already.
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
        _store(local_dir, uri, marker, before_marker, options)
    except Exception:
        with suppress(OSError, XmodalError):  # a full disk is not mended by leaving half a checkpoint on it
            delete_checkpoint(uri, options=options)
        raise
    return Found(uri=uri, marker=marker)


def delete_checkpoint(uri: str, *, options: StorageOptions = DEFAULT) -> None:
    """Remove a checkpoint's directory, marker first: cut short, it is an unfinished checkpoint, never a damaged one."""
    storage.delete(storage.join(uri, markers.NAME), options=options)
    storage.delete_tree(uri, options=options)


def _store(
    local_dir: Path, uri: str, marker: Marker, before_marker: Callable[[], None], options: StorageOptions
) -> None:
    text = markers.encode(marker)
    for record in sorted(marker.files, key=lambda record: record.size):  # a listed file early: a cut is seen
        storage.upload(str(local_dir / record.path), storage.join(uri, record.path), options=options)
    before_marker()
    storage.write(storage.join(uri, markers.NAME), text, options=options)


def _clear_unfinished(uri: str, options: StorageOptions) -> None:
    """An upload that failed before may be tried again; a committed checkpoint is never written over."""
    if storage.exists(storage.join(uri, markers.NAME), options=options):
        raise CheckpointError(
            f"{uri} is committed already; a run that continues from an earlier step needs a higher attempt"
        )
    storage.delete_tree(uri, options=options)
