"""Deletes checkpoints that newer ones supersede.

Nothing is deleted before `keep` newer checkpoints have been read back and verified, so a damaged one never counts.
"""

import os
from dataclasses import dataclass

from xmodal import storage
from xmodal.callbacks import Notify
from xmodal.checkpoint.commit import delete_checkpoint
from xmodal.checkpoint.listing import (
    DEFAULT,
    CheckpointDirectory,
    CheckpointRef,
    list_directories,
    open_directory,
)
from xmodal.checkpoint.marker import parse_directory_name
from xmodal.checkpoint.restore import verify
from xmodal.errors import CheckpointError, ConfigError
from xmodal.storage import StorageOptions
from xmodal.storage.address import S3Address, parse


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Keep the newest `keep` checkpoints that verify, and in addition every multiple of `keep_every` steps.

    >>> Retention(keep=2, keep_every=1000).keeps_forever(3000)
    True
    """

    keep: int = 2
    keep_every: int | None = None

    def __post_init__(self) -> None:
        if self.keep < 2:
            raise ConfigError(
                f"keep={self.keep}: with fewer than 2 checkpoints, one that is damaged in storage leaves none to "
                "fall back to; use 2 or more"
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise ConfigError(f"keep_every={self.keep_every}: a number of steps, at least 1; leave it out for none")

    def keeps_forever(self, step: int) -> bool:
        """Return whether the checkpoint of this step is never deleted."""
        return self.keep_every is not None and step % self.keep_every == 0


def prune(
    checkpoints_uri: str,
    newest: CheckpointRef,
    retention: Retention,
    *,
    verified: set[str] | None = None,
    notify: Notify = lambda message: None,
    options: StorageOptions = DEFAULT,
) -> None:
    """Delete what `newest`, which was just committed, supersedes: older checkpoints and unfinished older directories.

    Directories of a later step than `newest` are not touched, because another process may be writing them. `verified`
    collects URIs that were read back, so that each is read once. A checkpoint that does not verify is reported, does
    not count towards `keep`, and is deleted when `keep` newer ones verify.
    """
    verified = set() if verified is None else verified
    _delete_empty(checkpoints_uri, newest, options)
    kept_steps: set[int] = set()
    for directory in list_directories(checkpoints_uri, options=options):
        if directory.order > newest.order:
            continue
        if not directory.committed:
            delete_checkpoint(directory.uri, options=options)
        elif directory.step in kept_steps:
            delete_checkpoint(directory.uri, options=options)  # an earlier attempt at a step that is kept
        elif len(kept_steps) < retention.keep:
            if _is_valid(directory, newest, verified, notify, options):
                kept_steps.add(directory.step)
        elif not retention.keeps_forever(directory.step) and not _is_of_another_run(directory, newest, options):
            delete_checkpoint(directory.uri, options=options)


def _delete_empty(checkpoints_uri: str, newest: CheckpointRef, options: StorageOptions) -> None:
    """Delete directories without files that a killed process left on a local disk; S3 has no empty directories."""
    address = parse(checkpoints_uri)
    if isinstance(address, S3Address):
        return
    listed = {directory.order for directory in list_directories(checkpoints_uri, options=options)}
    for name in os.listdir(address.path):
        order = parse_directory_name(name)
        if order and order < newest.order and order not in listed:
            storage.delete_tree(storage.join(checkpoints_uri, name), options=options)


def _is_valid(
    directory: CheckpointDirectory, newest: CheckpointRef, verified: set[str], notify: Notify, options: StorageOptions
) -> bool:
    if directory.uri in verified:
        return True
    try:
        verify(
            open_directory(directory, run_id=newest.marker.run_id, options=options),
            options=options,
        )
    except CheckpointError as error:
        notify(f"{error}; it does not count towards keep")
        return False
    verified.add(directory.uri)
    return True


def _is_of_another_run(directory: CheckpointDirectory, newest: CheckpointRef, options: StorageOptions) -> bool:
    """Return whether a checkpoint belongs to another run, which must never be deleted."""
    try:
        checkpoint = open_directory(directory, run_id=None, options=options)
    except CheckpointError:
        return False
    return checkpoint.marker.run_id != newest.marker.run_id
