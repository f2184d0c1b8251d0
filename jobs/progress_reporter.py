"""Print the events of a run as lines for a person: what begins, progress with the remaining time, metrics."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from jobs import console
from pipelines.runtime.events import (
    Event,
    IndexProgress,
    Notification,
    RunStart,
    StepMetrics,
    ValidationMetrics,
    WorkerGroupStart,
)

if TYPE_CHECKING:
    from pipelines.stages.training_job import TrainingResult

SECONDS_PER_LINE = 2.0


class ProgressReporter:
    """Print a line for each event, and for progress at most one every two seconds; `stage` opens every line."""

    def __init__(self, stage: str, out: TextIO | None = None) -> None:
        self._stage = stage
        self._out = out or sys.stderr
        self._due = 0.0
        self._since: tuple[float, int] | None = (
            None  # time and step of the first line, so that the start is not counted
        )
        self._bars = ExitStack()
        self._bar: Callable[[int, int], None] | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Notification():
                self._say(event.text)
            case IndexProgress():
                self._indexing(event)
            case RunStart():
                self._opening(event)
            case WorkerGroupStart():
                self._worker_group_start(event)
            case StepMetrics():
                self._progress(event)
            case ValidationMetrics():
                self._validation(event)

    def _say(self, text: str) -> None:
        print(f"[{self._stage}] {text}", file=self._out, flush=True)

    def _indexing(self, event: IndexProgress) -> None:
        """Show a bar on a terminal, or lines in a log, until the last shard is indexed."""
        if self._bar is None:
            self._bar = self._bars.enter_context(console.progress(f"[{self._stage}] indexing", "shards"))
        self._bar(event.done, event.total)
        if event.done == event.total:
            self._bars.close()
            self._bar = None

    def _opening(self, event: RunStart) -> None:
        self._say(
            f"{event.rows:,} rows, {event.steps:,} steps "
            f"({event.steps_per_epoch:,} an epoch), {event.parameters / 1e6:.1f} M parameters"
        )
        if event.checkpoint_step is not None:
            self._say(f"found a checkpoint of step {event.checkpoint_step:,} in {event.run}")
        self._say("starting the workers")

    def _worker_group_start(self, event: WorkerGroupStart) -> None:
        """Print where a worker group starts: the first one, or another after a failure."""
        self._since = None
        origin = f"from checkpoint {event.checkpoint}" if event.checkpoint else "from nothing"
        self._say(f"{event.workers} worker(s) start at step {event.step:,} {origin}; the first batch comes")

    def _progress(self, event: StepMetrics) -> None:
        step, steps, metrics = event.step, event.steps, event.metrics
        since, first = self._since = self._since or (time.monotonic(), step)
        if not self._is_due(step == steps):
            return
        parts = [
            f"step {step:,}/{steps:,}",
            f"loss {metrics['loss']:.3f}",
            f"{metrics['samples_per_s']:,.0f} samples/s",
            f"waiting for data {metrics['data_wait_share']:.0%}",
        ]
        if step > first or step == steps:
            parts.append(f"ETA {clock((time.monotonic() - since) / max(step - first, 1) * (steps - step))}")
        if metrics["rows/quarantined"]:
            parts.append(f"{metrics['rows/quarantined']:,} bad rows")
        self._say("  ".join(parts))

    def _validation(self, event: ValidationMetrics) -> None:
        """Print what was measured between two steps: recall in both directions with chance, and label-free scores."""
        metrics = {name.removeprefix("validation/"): value for name, value in event.metrics.items()}
        self._label_free(event, metrics)
        directions = [name.removesuffix("/recall@10") for name in metrics if name.endswith("/recall@10")]
        directions = [direction for direction in directions if not direction.endswith("/chance")]
        if not directions:
            return
        parts = [
            f"{direction.replace('_to_', ' -> ')} {metrics[f'{direction}/recall@10']:.1%}" for direction in directions
        ]
        chance = f"chance {metrics[f'{directions[-1]}/chance/recall@10']:.1%}"
        self._say(
            f"step {event.step:,}/{event.steps:,}  recall@10 on {metrics['rows']:,.0f} held-out rows: "
            f"{', '.join(parts)} ({chance}; {metrics['seconds']:.1f} s)"
        )

    def _label_free(self, event: ValidationMetrics, metrics: dict[str, float]) -> None:
        """Print the scores on rows of the target that need no labels."""
        scores = {name.removeprefix("target/"): x for name, x in metrics.items() if name.startswith("target/")}
        if scores:
            text = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in scores.items())
            self._say(f"step {event.step:,}/{event.steps:,}  target, without labels: {text}")

    def _is_due(self, last: bool) -> bool:
        now = time.monotonic()
        if now < self._due and not last:
            return False
        self._due = now + SECONDS_PER_LINE
        return True


def print_result(result: "TrainingResult") -> None:
    """Print where a run that has ended is stored, and the command that measures it."""
    if result.already_finished:
        print(f"the run {result.run.name!r} was finished already, at step {result.step:,}")
    print(f"run         {result.run.uri}")
    print(f"checkpoint  {result.checkpoint}")
    print(f"next        python -m jobs.evaluate {result.run.uri} HELD_OUT_CORPUS")


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
