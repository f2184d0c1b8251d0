"""Run one trial in a process of its own, which joins the cluster as a job of its own, and hear its messages.

Why a process, and not the training inside Tune's actor: Ray Train puts the workers' placement group into the job of
whoever calls `fit()`, and gives it back only when its controller can still be asked. An actor that Tune stops leaves
that group standing, and an actor that trains holds what its own workers wait for. When a process ends, however it
ends, the cluster takes back all that belonged to its job: workers, readers and placement groups.
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from pipelines.runtime.events import Event, Notification, RunStart, StepMetrics
from pipelines.runtime.processes import end_with_parent
from xmodal import storage
from xmodal.errors import XmodalError
from xmodal.plugins import load_plugins
from xmodal.run import newest_attempt, read_metrics
from xmodal.storage import NotFound, StorageOptions

Message = dict[str, Any]
Send = Callable[[Message], None]
DONE, FAILED, NOTE, REPORT, WAITS = "done", "failed", "note", "report", "waits"
DEFAULT_OPTIONS = StorageOptions()
NOT_METRICS = ("step", "time")  # fields of a line of metrics.jsonl
PRELOADED = ("xmodal.encoders", "xmodal.checkpoint")  # slow to import, and without Ray or threads
KILL_TIMEOUT_S = 5.0  # until a killed process is expected to be gone
WAITS_EVERY_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What a trial's process has to do. `target` is MODULE:FUNCTION, called with (config, send)."""

    target: str
    config: Any  # of the run; its name and folder say where it is
    address: str | None  # of the cluster; None: the trial needs none
    options: StorageOptions = DEFAULT_OPTIONS
    parent: str | None = None  # run of which it starts as a copy (population based training) ...
    parent_step: int = 0  # ... with the checkpoint of this step


class TrialProcess:
    """A process that trains one attempt after another; `kill` ends it with everything it holds in the cluster."""

    def __init__(self, preload: Sequence[str] = PRELOADED) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._process: Any = None
        self._pipe: Connection | None = None
        self._busy = False
        self._scratch = ""
        self._heard = time.monotonic()

    def start(self, attempt: Attempt) -> None:
        """Hand over an attempt; a process whose last attempt ended well is used again, and saves its imports."""
        if self._busy or self._process is None or not self._process.is_alive():
            self.kill()
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=serve, args=(theirs, dict(os.environ)), daemon=False)
            self._process.start()
            theirs.close()
        assert self._pipe is not None
        self._scratch = tempfile.mkdtemp(prefix="xmodal-trial-")
        self._busy, self._heard = True, time.monotonic()
        self._pipe.send((attempt, self._scratch))

    @property
    def silent_s(self) -> float:
        """Return the seconds since its last message."""
        return time.monotonic() - self._heard

    def messages(self, timeout_s: float) -> Iterator[Message]:
        """Yield what it says within `timeout_s`; a process that died says `failed`."""
        if not self._busy or self._pipe is None or not wait([self._pipe], timeout_s):
            return
        while self._busy and self._pipe is not None and self._pipe.poll():
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                self._process.join(KILL_TIMEOUT_S)
                message = {"kind": FAILED, "error": _death(self._process.exitcode), "retry": True}
                self.kill()
            self._heard = time.monotonic()
            if message["kind"] in (DONE, FAILED):
                self._busy = False
                shutil.rmtree(self._scratch, ignore_errors=True)
            yield message

    def kill(self) -> None:
        """End the process at once; the cluster takes back what belonged to its job."""
        if self._process is not None:
            self._process.kill()
            self._process.join(KILL_TIMEOUT_S)
        if self._pipe is not None:
            self._pipe.close()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._process, self._pipe, self._busy, self._scratch = None, None, False, ""

    def kill_if_busy(self) -> None:
        """End an attempt that is under way; an idle process is kept."""
        if self._busy:
            self.kill()


def _death(code: int | None) -> str:
    if code == -9:
        return "its process was killed (signal 9): out of memory, or by somebody"
    if code is not None and code < 0:
        return f"its process ended by signal {-code}"
    return f"its process exited with {code}"


def serve(pipe: Connection, environment: dict[str, str]) -> None:
    """Carry out one attempt after another until the pipe is closed; ends with the process that started this one."""
    os.environ.clear()  # the server that this process was forked from may be older
    os.environ.update(environment)
    end_with_parent()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            attempt, scratch = pipe.recv()
            _run_attempt(attempt, scratch, pipe)


def _run_attempt(attempt: Attempt, scratch: str, pipe: Connection) -> None:
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:
            pipe.send(message)

    os.environ["TMPDIR"], tempfile.tempdir = scratch, None
    try:
        load_plugins()
        if attempt.address is not None:
            _join_cluster(attempt.address)
        config = _prepare_run(attempt)
        module, _, function = attempt.target.partition(":")
        with _saying_that_it_waits(send, attempt.address):
            getattr(importlib.import_module(module), function)(config, send)
        send({"kind": DONE})
    except XmodalError as error:  # exit codes 2 and 3: mistakes that every attempt would make
        send({"kind": FAILED, "error": str(error), "retry": error.exit_code not in (2, 3)})
    except Exception as error:  # of whatever is trained: it is recorded, and the search goes on
        last = traceback.format_exception_only(error)[-1].strip()
        send({"kind": FAILED, "error": last, "retry": True})


def _join_cluster(address: str) -> None:
    import logging

    import ray

    from pipelines.runtime import cluster, ray_compat

    ray_compat.disable_placement_group_cleaner()
    if not ray.is_initialized():
        cluster.quiet_ray()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)


def _prepare_run(attempt: Attempt) -> Any:
    """Return the run's configuration, to be resumed where the run has begun.

    A directory without a record belongs to a start that was cut short, and is deleted.
    """
    config, options = attempt.config, attempt.options
    if attempt.parent is not None:
        from pipelines.sweep.clone import clone

        clone(attempt.parent, attempt.parent_step, config, options)  # does nothing where the copy exists
    uri = storage.join(config.run.runs, config.run.name)
    try:
        storage.stat(storage.join(uri, "run.json"), options=options)
    except NotFound:
        storage.delete_tree(uri, options=options)
        return replace(config, run=replace(config.run, resume=False))
    newest_attempt(uri, options=options)
    return replace(config, run=replace(config.run, resume=True))


@contextlib.contextmanager
def _saying_that_it_waits(send: Send, address: str | None) -> Iterator[None]:
    """Say now and then that the trial's workers wait for room in the cluster: a trial in a queue does not hang."""
    if address is None:
        yield
        return
    ended = threading.Event()

    def report_waiting() -> None:
        from pipelines.runtime import ray_compat

        while not ended.wait(WAITS_EVERY_S):
            if ray_compat.has_pending_placement_group():
                send({"kind": WAITS})

    thread = threading.Thread(target=report_waiting, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_stage(config: Any, send: Send) -> None:
    """Run the stage of `pipelines.config.X`, which is `pipelines.stages.X`; what it measures becomes reports."""
    stage = importlib.import_module(f"pipelines.stages.{type(config).__module__.rpartition('.')[2]}")

    def on_event(event: Event) -> None:
        if isinstance(event, StepMetrics):
            send({"kind": REPORT, "step": event.step, "steps": event.steps, "metrics": event.metrics})
            return
        if isinstance(event, RunStart) and config.run.resume:
            report_again(event.run, event.steps, send, config.data.storage)
        send({"kind": NOTE, "text": event.text if isinstance(event, Notification) else ""})

    stage.run(config, on_event)


def report_again(run_uri: str, steps: int, send: Send, options: StorageOptions = DEFAULT_OPTIONS) -> None:
    """Report what the run has measured so far: whoever listened may have ended before it heard or stored that."""
    with contextlib.suppress(NotFound):
        for line in read_metrics(run_uri, options=options):
            metrics = {name: x for name, x in line.items() if isinstance(x, int | float) and name not in NOT_METRICS}
            send({"kind": REPORT, "again": True, "step": line["step"], "steps": steps, "metrics": metrics})
