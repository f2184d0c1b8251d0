"""Attempt numbers 1, 2, ... of the starts of a run.

Each start writes one small file. A suspended process of an earlier start that wakes up finds a number above its own,
and does not write any more.
"""

import json
import os
from datetime import UTC, datetime

from xmodal import storage
from xmodal.storage import NotFound, StorageOptions

DEFAULT = StorageOptions()


def claim_attempt(run_uri: str, *, options: StorageOptions = DEFAULT) -> int:
    """Return the number of this start of the run, one above the newest; called by rank 0 once at each start."""
    attempt = newest_attempt(run_uri, options=options) + 1
    record = {"attempt": attempt, "started": datetime.now(UTC).isoformat(timespec="seconds"), "process": os.getpid()}
    uri = storage.join(run_uri, "attempts", f"{attempt:06d}.json")
    storage.write(uri, (json.dumps(record) + "\n").encode(), options=options)
    return attempt


def newest_attempt(run_uri: str, *, options: StorageOptions = DEFAULT) -> int:
    """Return the highest number claimed; 0 before the first."""
    try:
        entries = storage.list_files(storage.join(run_uri, "attempts"), options=options)
    except NotFound:
        return 0
    names = (entry.uri.rpartition("/")[2].removesuffix(".json") for entry in entries)
    return max((int(name) for name in names if name.isdecimal()), default=0)
