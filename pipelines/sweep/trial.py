"""What a trial's process does: configurations of runs in through a pipe, what their ranks tell out through it.

Why processes, and not Ray Tune's trial actors: Train V2 puts its workers' placement group into the job of whoever calls
`fit()`, and removes it only when its controller can be asked about. A trial that Tune stops leaves that group standing
where the dashboard is off (a four-trial sweep hung for ever), and a Tune trial with a nested trainer has no checkpoint
that PBT could clone; Tune's own state is a pickle that is written every few seconds, so that a killed driver runs
finished trials again. A process of its own joins the cluster as a *job* of its own: when it ends, however it ends, the
cluster takes back everything that belonged to it. Checkpoints, resumes and clones are those of our runs.
"""

import contextlib
import importlib
import os
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pipelines.runtime.events import Event, Notification, RunStart, StepMetrics
from pipelines.runtime.processes import end_with_parent
from xmodal.errors import XmodalError
from xmodal.plugins import load_plugins
from xmodal.run import read_metrics
from xmodal.storage import NotFound, StorageOptions

Say = Callable[[dict[str, Any]], None]
DEFAULT = StorageOptions()
OF_THE_LINE = ("step", "time")
DONE, FAILED, NEWS, REPORT = "done", "failed", "news", "report"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One attempt of one trial. `target` is MODULE:FUNCTION, called with (config, say)."""

    trial: int
    target: str
    config: Any
    address: str | None  # of the cluster; None: the trial needs none
    namespace: str  # of what it leaves in the cluster, by which that is found
    scratch: str  # its temporary files: removed by whoever ends it


def serve(pipe: Connection, environment: dict[str, str]) -> None:
    """Carry out one order after the other until the pipe is closed; ends with the process that started this one."""
    os.environ.clear()  # its server may be older than the sweep
    os.environ.update(environment)
    end_with_parent()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            _carry_out(pipe.recv(), pipe)


def _carry_out(order: Order, pipe: Connection) -> None:
    def say(message: dict[str, Any]) -> None:
        pipe.send({"trial": order.trial, **message})

    os.makedirs(order.scratch, exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = order.scratch, None
    try:
        load_plugins()
        if order.address is not None:
            _join(order.address, order.namespace)
        module, _, function = order.target.partition(":")
        getattr(importlib.import_module(module), function)(order.config, say)
        say({"kind": DONE})
    except XmodalError as error:  # a mistake stays one, however often it is tried
        say({"kind": FAILED, "error": str(error), "again": error.exit_code not in (2, 3)})
    except Exception as error:  # of whatever is swept: it is recorded, and the sweep goes on
        last = traceback.format_exception_only(error)[-1].strip()
        say({"kind": FAILED, "error": last, "again": True})


def _join(address: str, namespace: str) -> None:
    import logging

    import ray

    from pipelines.runtime import cluster, ray_compat

    ray_compat.disable_placement_group_cleaner()
    if not ray.is_initialized():
        cluster.quiet_ray()
        ray.init(
            address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR,
            configure_logging=True,
        )  # fmt: skip


def carry_out(config: Any, say: Say) -> None:
    """The run of a pipeline: of `pipelines.config.X` its `pipelines.X`; what it measures becomes reports."""
    name = type(config).__module__.rpartition(".")[2]
    pipeline = importlib.import_module(f"pipelines.stages.{name}")

    def on_event(event: Event) -> None:
        if isinstance(event, StepMetrics):
            say({"kind": REPORT, "step": event.step, "steps": event.steps, "metrics": event.metrics})
            return
        if isinstance(event, RunStart) and config.run.resume:
            tell_again(event.run, event.steps, say, config.data.storage)
        say({"kind": NEWS, "text": event.text if isinstance(event, Notification) else ""})

    pipeline.run(config, on_event)


def tell_again(run_uri: str, steps: int, say: Say, options: StorageOptions = DEFAULT) -> None:
    """What the run measured up to its last end: the driver may have died before it heard of it, or wrote it down."""
    with contextlib.suppress(NotFound):
        for line in read_metrics(run_uri, options=options):
            metrics = {name: x for name, x in line.items() if isinstance(x, int | float) and name not in OF_THE_LINE}
            say({"kind": REPORT, "again": True, "step": line["step"], "steps": steps, "metrics": metrics})
