"""Writes checkpoints in the background, while training continues.

The state is written to a local temporary directory while the caller waits (so the tensors may change afterwards), and
is uploaded by one background thread. A later save waits for the running one, so there are never two writers.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from xmodal.callbacks import Notify
from xmodal.checkpoint.commit import commit
from xmodal.checkpoint.listing import DEFAULT, CheckpointRef
from xmodal.checkpoint.restore import verify
from xmodal.checkpoint.retention import Retention, prune
from xmodal.errors import CheckpointError, XmodalError
from xmodal.storage import StorageOptions

Fill = Callable[[Path], None]

_RECOVERABLE = (OSError, XmodalError)  # a full disk, unreachable storage; anything else is a bug and is raised at once


class SupersededAttempt(CheckpointError):
    """A newer attempt of the same run has taken over; this process must not write."""


class CheckpointWriter:
    """Saves the checkpoints of one attempt of one run; used by rank 0 only.

    `retention` says which checkpoints stay. Up to `tolerate` saves in a row may fail because of storage or disk: each
    is reported to `notify`, the previous checkpoint stays and the run continues; one more failure raises
    CheckpointError at the next save or close. `newest_attempt` is called before a commit: if it returns a number above
    `attempt`, a newer attempt has taken over, and this process raises SupersededAttempt instead of writing (a process
    that was suspended and wakes up changes nothing).
    """

    def __init__(
        self,
        checkpoints_uri: str,
        *,
        run_id: str,
        attempt: int,
        retention: Retention | None = None,
        corpora: Mapping[str, str] | None = None,
        tolerate: int = 3,
        newest_attempt: Callable[[], int] | None = None,
        notify: Notify = lambda message: None,
        scratch: Path | None = None,
        options: StorageOptions = DEFAULT,
    ) -> None:
        self.last: CheckpointRef | None = None  # the newest one this writer committed
        self._uri = checkpoints_uri
        self._run_id = run_id
        self._attempt = attempt
        self._corpora = dict(corpora or {})
        self._retention = retention or Retention()
        self._tolerate = tolerate
        self._newest_attempt = newest_attempt
        self._notify = notify
        self._options = options
        self._scratch = scratch or Path(tempfile.gettempdir())
        self._verified: set[str] = set()
        self._failures = 0
        self._error: BaseException | None = None
        self._running: Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._remove_leftovers()

    def save(self, step: int, fill: Fill, metadata: Mapping[str, object] | None = None) -> None:
        """Write the checkpoint of a step; returns after `fill(directory)`, before the upload.

        The directory is local, new and empty. A step that was just committed is not written again. Raises what
        `fill` raises, and CheckpointError if more than `tolerate` background saves in a row have failed.
        """
        self.wait()
        if self.last is not None and self.last.step == step:
            return
        directory = self._fill(step, fill)
        if directory is not None:
            self._running = self._thread.submit(self._store, step, directory, dict(metadata or {}))

    def wait(self) -> None:
        """Wait until nothing is being written; raises like `save`."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
        if self._failures > self._tolerate:
            raise CheckpointError(
                f"{self._failures} checkpoints in a row could not be written: {self._error}; {self._newest_in_words()}"
            ) from self._error

    def close(self) -> None:
        """Wait for the running save; CheckpointError if the last save of this writer failed, even if tolerated."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
        if self._error is not None:
            raise CheckpointError(
                f"the last checkpoint could not be written: {self._error}; {self._newest_in_words()}"
            ) from self._error

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; if the block has failed already, an error of a checkpoint goes to `notify` and does not hide it."""
        try:
            self.close()
        except Exception as closing:
            if error is None:
                raise
            self._notify(f"while ending: {closing}")

    def _fill(self, step: int, fill: Fill) -> Path | None:
        directory = None
        try:
            directory = Path(tempfile.mkdtemp(prefix=self._prefix(), dir=self._scratch))
            fill(directory)
            return directory
        except BaseException as error:
            _remove(directory)
            if not _disk_is_full(error):
                raise
            self._record_failure(step, error)
        self.wait()
        return None

    def _store(self, step: int, directory: Path, metadata: dict[str, Any]) -> None:
        """Commit, read back, and delete superseded checkpoints; runs in the background."""
        try:
            self._commit(step, directory, metadata)
        except SupersededAttempt:
            raise
        except _RECOVERABLE as error:
            self._record_failure(step, error)
        else:
            self._failures, self._error = 0, None
            self._prune()
        finally:
            _remove(directory)

    def _commit(self, step: int, directory: Path, metadata: Mapping[str, object]) -> None:
        self._raise_if_superseded()
        checkpoint = commit(
            directory,
            self._uri,
            run_id=self._run_id,
            attempt=self._attempt,
            step=step,
            corpora=self._corpora,
            metadata=metadata,
            before_marker=self._raise_if_superseded,
            options=self._options,
        )
        verify(checkpoint, options=self._options)
        self._verified.add(checkpoint.uri)
        self.last = checkpoint

    def _prune(self) -> None:
        """Delete superseded checkpoints; a failure is only reported, because it costs no more than space."""
        if self.last is None:
            return
        try:
            prune(
                self._uri,
                self.last,
                self._retention,
                verified=self._verified,
                notify=self._notify,
                options=self._options,
            )
        except _RECOVERABLE as error:
            self._notify(f"older checkpoints could not be removed: {error}")

    def _raise_if_superseded(self) -> None:
        newest = self._newest_attempt() if self._newest_attempt else 0
        if newest > self._attempt:
            raise SupersededAttempt(
                f"attempt {newest} of this run has taken over from attempt {self._attempt}: "
                "this process writes no more checkpoints"
            )

    def _record_failure(self, step: int, error: BaseException) -> None:
        self._failures += 1
        self._error = error
        self._notify(
            f"the checkpoint of step {step} could not be written ({error}); {self._newest_in_words()}; "
            f"failure {self._failures} in a row, the run stops after {self._tolerate}"
        )

    def _newest_in_words(self) -> str:
        return f"{self.last.name} stays the newest" if self.last else "none was written by this attempt so far"

    def _prefix(self) -> str:
        return f"xmodal-{self._run_id}-attempt-{self._attempt}-"

    def _remove_leftovers(self) -> None:
        """Delete the temporary directories that killed attempts left on this machine."""
        for path in self._scratch.glob(f"xmodal-{self._run_id}-attempt-*"):
            attempt = path.name.rpartition("-attempt-")[2].partition("-")[0]
            if int(attempt) <= self._attempt:
                _remove(path)


def _remove(directory: Path | None) -> None:
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


def _disk_is_full(error: BaseException) -> bool:
    """Return whether an error means a full disk, also in the words of tensor writers, which raise no OSError."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or os.strerror(errno.ENOSPC) in str(error)
