"""Checkpoints: a local directory in, a committed and verified one in storage out, and back.

A checkpoint is `<checkpoints>/step-000000100.attempt-2/` with any files and, written last, `COMMITTED.json` with the
size and SHA-256 of each. The newest one is found by a scan; nothing else points to it.
"""

from xmodal.checkpoint.commit import commit, delete_checkpoint
from xmodal.checkpoint.listing import Found, list_directories, resolve, scan
from xmodal.checkpoint.marker import FileRecord, Marker
from xmodal.checkpoint.restore import Restored, fetch, latest, verify
from xmodal.checkpoint.retention import Retention, prune
from xmodal.checkpoint.writer import CheckpointWriter, Replaced

__all__ = [
    "CheckpointWriter",
    "FileRecord",
    "Found",
    "Marker",
    "Replaced",
    "Restored",
    "Retention",
    "commit",
    "delete_checkpoint",
    "fetch",
    "latest",
    "list_directories",
    "prune",
    "resolve",
    "scan",
    "verify",
]
