"""Checkpoints: directories that are uploaded, committed, verified and restored.

A checkpoint is `<checkpoints>/step-000000100.attempt-2/` with any files and, written last, `COMMITTED.json` with the
size and SHA-256 of each. The newest checkpoint is found by listing the directory; nothing else points to it.
"""

from xmodal.checkpoint.commit import commit, delete_checkpoint
from xmodal.checkpoint.listing import CheckpointRef, list_directories, resolve, scan
from xmodal.checkpoint.marker import FileRecord, Marker
from xmodal.checkpoint.restore import RestoredCheckpoint, fetch, fetch_latest, verify
from xmodal.checkpoint.retention import Retention, prune
from xmodal.checkpoint.writer import CheckpointWriter, SupersededAttempt

__all__ = [
    "CheckpointRef",
    "CheckpointWriter",
    "FileRecord",
    "Marker",
    "RestoredCheckpoint",
    "Retention",
    "SupersededAttempt",
    "commit",
    "delete_checkpoint",
    "fetch",
    "fetch_latest",
    "list_directories",
    "prune",
    "resolve",
    "scan",
    "verify",
]
