"""Keep the records of a sweep while Ray Tune carries it, and report what happens to a person.

Tune's own state is written to a scratch folder of the driver, and is never read: a killed sweep is a new Tuner over the
same records. So nothing that others may write to is ever unpickled.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from pipelines.sweep.plan import Plan
from pipelines.sweep.trainable import TrialFailed
from pipelines.sweep.trial_store import TrialStore
from xmodal.errors import ConfigError, nearest
from xmodal.search import trial as statuses
from xmodal.search.trial import BASELINE, CLONE, ORACLE, Trial, TrialReport

SECONDS_PER_TABLE = 15.0
SECONDS_PER_COUNT = 10.0  # of the room in the cluster
OnSweepEvent = Callable[[Any], None]  # receives dicts of the sweep, and events of the indexing before it


class EmptyPickle:
    """Something that Tune pickles into its scratch folder, where nobody reads it: nothing of it is stored."""

    def __reduce__(self) -> Any:
        return (object, ())


class SweepRecorder(EmptyPickle):
    """The records of all trials, which trials are at work, and the events of a sweep."""

    def __init__(self, plan: Plan, store: TrialStore, on_event: OnSweepEvent) -> None:
        self.plan, self.store, self.on_event = plan, store, on_event
        self.on_end: Callable[[Trial], None] = lambda trial: None  # hears of every trial that is over
        self.mistake: ConfigError | None = None  # one that every trial would make
        self.active: set[int] = set()  # numbers of trials that Tune holds and that are not paused
        self._steady: set[int] = set()  # numbers of trials whose actors ask for a node that is not preempted
        self._began: dict[int, float] = {}
        self._seconds_before: dict[int, float] = {}
        self._table_due = self._count_due = 0.0
        self._concurrent = plan.concurrent

    @contextmanager
    def store_at_end(self) -> Iterator[None]:
        """Store every report at the end of the block, however it ends."""
        try:
            yield
        finally:
            self.store.sync(now=True)
            self._show_table(now=True)

    def has_room(self) -> bool:
        """Whether another trial may start; the room in a cluster is counted anew now and then, since it may grow."""
        if time.monotonic() >= self._count_due:
            self._count_due = time.monotonic() + SECONDS_PER_COUNT
            self._concurrent = self.plan.count_room()
        return len(self.active) < self._concurrent

    def trial_config(self, trial: Trial) -> dict[str, Any]:
        """Return what Tune hands to the actor of a trial that is about to start, and count it as at work."""
        steady = len(self._steady & self.active) < self.plan.count_steady()
        self.active.add(trial.number)
        if steady:
            self._steady.add(trial.number)
        return self.plan.trial_config(trial, steady=steady)

    def start(self, number: int) -> None:
        """Record an attempt that Tune has placed on a node."""
        trial = self.store[number]
        self.active.add(number)
        self._began[number], self._seconds_before[number] = time.monotonic(), float(trial.seconds)
        started = self.store.change(
            number, status=statuses.RUNNING, attempts=trial.attempts + 1, started=trial.started or time.time(), why="",
        )  # fmt: skip
        self._tell("started", started)

    def report(self, number: int, result: Mapping[str, Any]) -> Trial | None:
        """Record a result of Tune; None for one without a report, one that is known, or of a trial that is over."""
        trial = self.store[number]
        if "step" not in result or trial.status != statuses.RUNNING:
            return None
        if any(report.step == result["step"] for report in trial.reports):
            return None
        metrics = {name: float(result[name]) for name in result["reported"] if isinstance(result[name], int | float)}
        oracle = {name: value for name, value in metrics.items() if name.startswith(ORACLE)}
        seconds = self._seconds(number)
        report = TrialReport(
            step=result["step"],
            steps=result["steps"],
            seconds=seconds,
            metrics={name: value for name, value in metrics.items() if name not in oracle},
        )
        earlier = tuple(report for report in trial.reports if report.step < result["step"])
        return self.store.change(
            number,
            reports=(*earlier, report),
            seconds=seconds,
            oracle={**trial.oracle, **oracle},
            ready=trial.ready or seconds - self._seconds_before.get(number, 0.0),
        )

    def finish(self, number: int, result: Mapping[str, Any]) -> Trial | None:
        """Record the end of a run; None where another attempt follows."""
        if "failed" in result:
            self.fail(number, result["failed"], retry=False, mistake=True)
            return None
        self.report(number, result)
        trial = self.store[number]
        if missing := [objective.metric for objective in self.plan.by if objective.better(trial) is None]:
            self._check_logged(trial, missing[0])
        why = self.violation(trial)
        return self.end(number, statuses.REJECTED if why else statuses.FINISHED, why or "")

    def _check_logged(self, trial: Trial, metric: str) -> None:
        """Note a mistake where no trial of this run will ever report a metric; a NaN is none."""
        logged = {name for report in trial.reports for name in report.metrics}
        if metric not in logged:
            self.mistake = ConfigError(
                f"the run logs no metric {metric!r}: {nearest(metric, logged)}. Name one of these with --metric, or "
                "turn its measurement on in the run's own flags"
            )

    def violation(self, trial: Trial) -> str | None:
        """Return why the guards reject a trial; the baseline and its repeats are never rejected."""
        if trial.kind == BASELINE or trial.parent == 0:
            return None
        baseline = next((other for other in self.store.trials if other.kind == BASELINE), None)
        violations = [why for guard in self.plan.guards if (why := guard.violation(trial, baseline))]
        return "; ".join(violations) or None

    def end(self, number: int, status: str, why: str) -> Trial:
        """Record that a trial is over."""
        order = self.store.next_event()
        trial = self.store.change(number, status=status, why=why, seconds=self._seconds(number), ended=order)
        self._forget(number)
        self.on_end(trial)
        self._tell("ended", trial)
        return trial

    def pause(self, number: int, step: int) -> None:
        """Record that a trial waits for others of its population or bracket."""
        if self.store[number].status == statuses.RUNNING:
            seconds = self._seconds(number)
            self.store.change(number, status=statuses.PAUSED, paused_at=step, seconds=seconds, attempts=0)
            self._forget(number)

    def copy(self, number: int, parent: int, step: int, units: Mapping[str, float]) -> Trial:
        """Record that trial `number` gives way to a copy of `parent` at `step`, with the units that Tune has drawn."""
        source = self.store[parent]
        point = tuple(float(units[axis]) for axis in map(str, range(len(units))))
        copy = self.store.add(
            Trial(
                number=-1, kind=CLONE, values=self.plan.space.decode(point), units=point, seed=source.seed,
                parent=parent, parent_step=step, paused_at=step, status=statuses.PAUSED,
                reports=tuple(report for report in source.reports if report.step <= step),
            )
        )  # fmt: skip
        self.end(number, statuses.STOPPED, f"gave way to a copy of {source.name} at step {step:,}")
        return copy

    def fail(self, number: int, error: str, *, retry: bool, mistake: bool = False) -> None:
        """Record the failure of an attempt: another one follows, or the trial is over.

        A `mistake` (no attempt would help) of the baseline ends the sweep, since every trial would make it.
        """
        trial = self.store[number]
        changes = {"errors": (*trial.errors, error), "why": error, "seconds": self._seconds(number)}
        if retry:
            self._tell("again", self.store.change(number, status=statuses.WAITING, **changes))
            return
        self.store.change(number, **changes)
        self.end(number, statuses.FAILED, error)
        if trial.kind == BASELINE and mistake:
            self.store.change(number, status=statuses.WAITING, attempts=0)
            self.mistake = ConfigError(f"the run itself cannot work, swept or not: {error}")

    def sync(self) -> None:
        """Store reports and show the table, at most every few seconds."""
        self.store.sync()
        self._show_table()

    def _seconds(self, number: int) -> float:
        """Return the seconds that a trial was at work, over all its attempts."""
        if number not in self._began:
            return float(self.store[number].seconds)
        return self._seconds_before[number] + time.monotonic() - self._began[number]

    def _forget(self, number: int) -> None:
        self.active.discard(number)
        self._began.pop(number, None)

    def _tell(self, kind: str, trial: Trial) -> None:
        self.on_event({"kind": kind, "trial": trial})
        self._show_table(now=kind == "ended")

    def _show_table(self, *, now: bool = False) -> None:
        if now or time.monotonic() >= self._table_due:
            self._table_due = time.monotonic() + SECONDS_PER_TABLE
            self.on_event({"kind": "table", "trials": self.store.trials, "plan": self.plan})


class RecordingCallback(Callback):
    """Records what Tune does to its actors: starts, retries, and the loss of an actor or its node."""

    def __init__(self, recorder: SweepRecorder) -> None:
        self._recorder = recorder

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._recorder.start(trial.config["trial"]["number"])

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._recorder.fail(trial.config["trial"]["number"], error_of(trial), retry=True)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        number = trial.config["trial"]["number"]
        began = self._recorder.store[number].attempts > 0  # else no node could even make its actor
        self._recorder.fail(number, error_of(trial), retry=False, mistake=not began)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End the run of a trial that was stopped: Tune may keep its actor for another one."""
        if trial.temporary_state.ray_actor is not None:
            trial.temporary_state.ray_actor.halt.remote()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._recorder.sync()


def error_of(trial: TuneTrial) -> str:
    """Return in a line what ended an attempt: an exception of the run, or the loss of the actor or its node.

    Tune has written it to a file of its scratch folder, after the errors of earlier attempts.
    """
    text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    own = next((line for line in lines if f"{TrialFailed.__name__}: " in line), None)
    if own is not None:
        return own.partition(f"{TrialFailed.__name__}: ")[2]
    return lines[-1] if lines else "its actor ended"
