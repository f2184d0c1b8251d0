"""A run and ranges of its fields -> trials across the cluster, the configuration that is chosen, and a page.

One visible loop: start what there is room for, hear what trials say, end what is not worth its time. Everything that
happened lies in the sweep's directory before the next thing happens, so that a killed driver is resumed with no
finished trial run again. Why trials are processes and not Tune's actors: `pipelines.sweep.trial`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.config.sweep import PBT, SweepConfig
from pipelines.sweep.clone import clone, committed
from pipelines.sweep.plan import Plan, prepare
from pipelines.sweep.slots import DIED, Slots
from pipelines.sweep.trial import DONE, FAILED, NEWS, REPORT, Order
from pipelines.sweep.trial_store import TRIALS, Book, as_begun, open_book
from xmodal import storage
from xmodal.errors import ConfigError, nearest
from xmodal.run import newest_attempt
from xmodal.search import trial as trials_
from xmodal.search.choice import ChosenConfig, choose
from xmodal.search.config_fields import value_at
from xmodal.search.trial import BASELINE, CLONE, ORACLE, Trial, TrialReport
from xmodal.storage import NotFound

LISTEN_S, TABLE_S = 0.5, 15.0
News = Callable[[Any], None]  # receives dicts of the sweep, and events of the indexing before it


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a sweep ended; `chosen` is None where nothing finished, or where several metrics leave no order."""

    uri: str
    trials: Sequence[Trial]
    chosen: ChosenConfig | None
    plan: Plan


def run(config: SweepConfig, on_news: News = lambda message: None) -> Result:
    """Carry the sweep to its end, from the start or (with `resume`) from where it was killed.

    Raises what is wrong with the ranges, the metric, the run's configuration, its storage or its corpora before a
    trial starts; a trial that fails afterwards is recorded, and the sweep goes on.
    """
    plan = prepare(as_begun(config), on_news)
    book = open_book(plan.config)
    with Slots(plan.concurrent) as slots:
        _Conductor(plan, book, slots, on_news).carry_out()
    chosen = choose(book.trials, plan.space, plan.by[0]) if len(plan.by) == 1 else None
    return Result(uri=book.uri, trials=book.trials, chosen=chosen, plan=plan)


class _Conductor:
    def __init__(self, plan: Plan, book: Book, slots: Slots, on_news: News) -> None:
        self._plan, self._book, self._slots, self._on_news = plan, book, slots, on_news
        self._strategy = plan.strategy
        self._began: dict[int, float] = {}  # of the present attempts, by time.monotonic
        self._before: dict[int, float] = {}  # seconds of the attempts before
        self._boundary: dict[int, int | None] = {}
        self._due = 0.0

    def carry_out(self) -> None:
        """Until no trial is left to start and none is at work."""
        while True:
            while self._slots.free and (trial := self._next()):
                self._start(trial)
            if not self._began:
                break
            for message in self._slots.listen(LISTEN_S):
                self._hear(message)
            for number in self._slots.silent(self._plan.config.silent_s):
                self._fail(number, f"it said nothing for {self._plan.config.silent_s:g} s", again=True)
            for number in [n for n, bound in self._boundary.items() if bound is not None]:
                self._pause_at_boundary(number)
            self._book.sync()
            self._tell_table()
        self._book.sync(now=True)
        self._tell_table(now=True)

    def _next(self) -> Trial | None:
        trials = self._book.trials
        waiting = [trial for trial in trials if trial.status == trials_.WAITING]
        if waiting:
            return min(waiting, key=lambda trial: (trial.share, trial.number))
        if self._plan.config.scheduler == PBT:
            living = self._strategy.living(trials)
            if len(living) > 1 and all(trial.status == trials_.PAUSED for trial in living):
                self._exploit()
                return self._next()
        found = self._strategy.next(trials)
        while found is not None:
            added = self._book.add(found)
            if not added.over:
                return added
            self._tell("ended", added)
            found = self._strategy.next(self._book.trials)
        return None

    def _exploit(self) -> None:
        """Copies first: a driver that is killed in between loses none."""
        paused = [trial.number for trial in self._strategy.living(self._book.trials)]
        leaving, copies = self._strategy.exploit(self._book.trials)
        for copy in copies:
            self._book.add(copy)
        for number in paused:
            if number in leaving:
                self._tell("ended", self._book.change(number, status=trials_.STOPPED, why=leaving[number]))
            else:
                self._book.change(number, status=trials_.WAITING)

    def _start(self, trial: Trial) -> None:
        config = self._plan.config_of(trial, self._runs)
        uri = storage.join(self._runs, trial.name)
        try:
            if trial.kind == CLONE and trial.parent is not None and trial.paused_at == trial.parent_step:
                parent = storage.join(self._runs, self._book[trial.parent].name)
                clone(parent, trial.parent_step, config, self._book.options)
            config = self._resumed(config, uri)
        except Exception as error:  # storage, or a parent that lost its checkpoint: this trial's failure alone
            self._tell("ended", self._book.change(trial.number, status=trials_.FAILED, why=str(error)))
            return
        now = time.monotonic()
        self._began[trial.number], self._before[trial.number] = now, trial.seconds
        steps = value_at(config, "optim.steps") if self._plan.config.scheduler == PBT else None
        self._boundary[trial.number] = self._strategy.boundary(trial, steps) if steps else None
        started = self._book.change(
            trial.number, status=trials_.RUNNING, attempts=trial.attempts + 1, started=trial.started or time.time(),
            why="",
        )  # fmt: skip
        self._slots.start(
            Order(
                trial=trial.number,
                target=self._plan.target,
                config=config,
                address=self._plan.address,
                namespace=f"{trial.name}.{started.attempts}",
                scratch="",
            )
        )
        self._tell("started", started)

    @property
    def _runs(self) -> str:
        return storage.join(self._book.uri, TRIALS)

    def _resumed(self, config: Any, uri: str) -> Any:
        """To be continued where the run has begun; a directory without a record is of a start that was cut short."""
        options = self._book.options
        try:
            storage.stat(storage.join(uri, "run.json"), options=options)
        except NotFound:
            storage.delete_tree(uri, options=options)
            return replace(config, run=replace(config.run, resume=False))
        newest_attempt(uri, options=options)
        return replace(config, run=replace(config.run, resume=True))

    def _hear(self, message: dict[str, Any]) -> None:
        number, kind = message["trial"], message["kind"]
        if number not in self._began:
            return
        if kind == REPORT:
            self._report(number, message)
        elif kind == DONE:
            self._finish(number)
        elif kind in (FAILED, DIED):
            self._fail(number, message["error"], again=message["again"])
        elif kind == NEWS and message["text"]:
            self._on_news({"kind": "trial_note", "trial": self._book[number].name, "text": message["text"]})

    def _seconds(self, number: int) -> float:
        return self._before[number] + time.monotonic() - self._began[number]

    def _report(self, number: int, message: dict[str, Any]) -> None:
        trial = self._book[number]
        if message.get("again") and any(one.step == message["step"] for one in trial.reports):
            return
        metrics = {name: float(x) for name, x in message["metrics"].items() if isinstance(x, int | float)}
        oracle = {name: x for name, x in metrics.items() if name.startswith(ORACLE)}
        seconds = self._seconds(number)
        report = TrialReport(
            step=message["step"], steps=message["steps"], seconds=seconds,
            metrics={name: x for name, x in metrics.items() if name not in oracle},
        )  # fmt: skip
        kept = tuple(one for one in trial.reports if one.step < report.step)
        ready = trial.ready or (seconds - self._before[number])
        trial = self._book.change(
            number, reports=(*kept, report), seconds=seconds, ready=ready, oracle={**trial.oracle, **oracle}
        )  # fmt: skip
        found = self._strategy.verdict(trial, self._book.trials)
        if found is not None:
            self._end(number, *found)

    def _finish(self, number: int) -> None:
        trial, bound = self._book[number], self._boundary[number]
        if bound is not None:  # it was at its end before it could be paused, and waits there for the others
            self._pause(number, bound, kill=False)
            return
        missing = [one.metric for one in self._plan.by if one.better(trial) is None]
        if missing:
            self._without_metric(trial, missing[0])
        why = self._strategy.complaint(trial, self._book.trials)
        self._end(number, trials_.REJECTED if why else trials_.FINISHED, why or "", kill=False)

    def _without_metric(self, trial: Trial, metric: str) -> None:
        """ConfigError: no trial of this run will ever report it."""
        known = {name for report in trial.reports for name in report.metrics}
        if metric not in known:
            self._book.change(trial.number, status=trials_.FAILED, why=f"it reported no {metric}")
            raise ConfigError(
                f"the run logs no metric {metric!r}: {nearest(metric, known)}. Name one of these with --metric, or "
                "turn its measurement on in the run's own flags"
            )

    def _end(self, number: int, status: str, why: str, *, kill: bool = True) -> None:
        seconds = self._seconds(number)
        trial = self._book.change(number, status=status, why=why, seconds=seconds)
        self._forget(number, kill=kill)
        self._tell("ended", trial)

    def _fail(self, number: int, error: str, *, again: bool) -> None:
        """Another attempt, or the end of this trial; of the baseline a mistake ends the sweep: all would make it."""
        trial = self._book[number]
        errors = (*trial.errors, error)
        seconds = self._seconds(number)
        if again and trial.attempts <= self._plan.config.retries:
            trial = self._book.change(number, status=trials_.WAITING, errors=errors, why=error, seconds=seconds)
            self._forget(number)
            self._tell("again", trial)
            return
        trial = self._book.change(number, status=trials_.FAILED, errors=errors, why=error, seconds=seconds)
        self._forget(number)
        self._tell("ended", trial)
        if trial.kind == BASELINE and not again:
            self._book.change(number, status=trials_.WAITING, attempts=0)
            raise ConfigError(f"the run itself cannot work, swept or not: {error}")

    def _pause_at_boundary(self, number: int) -> None:
        """End a trial of pbt whose checkpoint of the boundary is complete."""
        trial, bound = self._book[number], self._boundary[number]
        if bound is None or not trial.reports or trial.reports[-1].step < bound:
            return
        if committed(storage.join(self._runs, trial.name), bound, self._book.options):
            self._pause(number, bound)

    def _pause(self, number: int, bound: int, *, kill: bool = True) -> None:
        seconds = self._seconds(number)
        self._book.change(number, status=trials_.PAUSED, paused_at=bound, seconds=seconds, attempts=0)
        self._forget(number, kill=kill)

    def _forget(self, number: int, *, kill: bool = True) -> None:
        if kill:
            self._slots.end(number)
        for known in (self._began, self._before, self._boundary):
            known.pop(number, None)

    def _tell(self, kind: str, trial: Trial) -> None:
        self._on_news({"kind": kind, "trial": trial})
        if kind == "ended":
            self._tell_table(now=True)

    def _tell_table(self, *, now: bool = False) -> None:
        if now or time.monotonic() >= self._due:
            self._due = time.monotonic() + TABLE_S
            self._on_news({"kind": "table", "trials": self._book.trials, "plan": self._plan})
