"""Wrap a scheduler of Ray Tune by what Tune's own do not know: the baseline, guards, and a sweep's records.

Tune's schedulers decide (asynchronous successive halving, the median rule, population based training). The
wrapper shows them every report as `budget` (percent of a full run) and `score` (larger is better), and has the last
word in four cases, since these would end what should go on:

- the baseline and the repeats of finalists are never stopped;
- before `grace`, e.g. until lambda has come near its peak, no scheduler stops and no guard rejects;
- at a rung that fewer than `reduction` trials have reached, ASHA would stop the second of two;
- a value that is not finite counts as the worst (ASHA's comparison lets a NaN go on).

A report that violates a guard ends its trial, and is not shown: a collapsed trial may look splendid.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pipelines.sweep.plan import Plan
from pipelines.sweep.recorder import EmptyPickle, SweepRecorder
from pipelines.sweep.scheduler_classes import scheduler_class
from xmodal.search.objective import SearchObjective
from xmodal.search.trial import BASELINE, FAILED, FINALIST, FINISHED, REJECTED, SEARCH, STOPPED, Trial, TrialReport

WORST = -1e300  # finite: between two infinities Tune's percentile has no value
ROUNDING = 1e-7  # of a percent, by which a budget may fall short of a rung
MEDIAN_OF = 3  # others, before there is a median to go by
NEVER = float("inf")  # percent: a trial is not paused while there are too few others for a median
REPLAYED = ("asha", "median")  # schedulers whose state follows from the records, and is made anew on a resume


def make_scheduler(plan: Plan, *, members: Sequence[Trial]) -> TrialScheduler:
    """Return Tune's scheduler for a plan; its time is `budget`, in percent of a full run.

    One of a population is for its `members` alone: whatever runs before them is not scheduled.
    """
    config, rungs = plan.config, plan.rungs
    if plan.population_based and not members:
        return FIFOScheduler()
    common: dict[str, Any] = {"time_attr": "budget", "metric": "score", "mode": "max"}
    grace, reduction = 100 * rungs.grace, rungs.reduction
    interval = {
        "perturbation_interval": 100 / config.intervals, "quantile_fraction": min(0.5, 1 / reduction),
        "log_config": False, "synch": True, "custom_explore_fn": plan.explore,
    }  # fmt: skip
    halving = {"max_t": 100, "grace_period": grace, "reduction_factor": reduction, "stop_last_trials": False}
    defaults: dict[str, dict[str, Any]] = {
        "fifo": {},
        "asha": common | halving,
        "median": common | {"grace_period": grace, "min_samples_required": MEDIAN_OF, "min_time_slice": NEVER},
        "pbt": common | interval | {"hyperparam_mutations": plan.mutations},
        "pb2": common | interval | {"hyperparam_bounds": plan.bounds},
    }  # fmt: skip
    return scheduler_class(config.scheduler)(**defaults[config.scheduler] | dict(plan.scheduler_options))


def last_boundary(members: Sequence[Trial], intervals: int) -> float:
    """Return the percent of a run at the last boundary that a member of a population has passed; 0 at the start.

    Tune's clock for a population begins there: it counts boundaries one by one, and a member of a resumed sweep that
    were beyond its first one would wait for ever.
    """
    furthest = max((trial.share for trial in members), default=0.0)
    return 100 * math.floor(furthest * intervals + 1e-9) / intervals


class SweepScheduler(EmptyPickle, TrialScheduler):
    """A scheduler of Tune with the rules of a sweep on top; see the module's description."""

    def __init__(self, inner: TrialScheduler, recorder: SweepRecorder, *, members: Sequence[Trial] = ()) -> None:
        super().__init__()
        self._inner, self._recorder, self._plan = inner, recorder, recorder.plan
        self._clock_start = last_boundary(members, recorder.plan.config.intervals)
        self._replayed = False
        self._numbers: dict[str, int] = {}  # by Tune's id of a trial, which keeps it when it becomes a copy

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        if not self._replayed:
            self._replayed = True
            self._replay(tune_controller)
        recorded = self._recorder.store[number_of(trial)]
        again = trial.trial_id in self._numbers
        self._numbers[trial.trial_id] = recorded.number
        if self._is_scheduled(recorded):
            self._inner.on_trial_add(tune_controller, trial)
            if not again and self._plan.config.scheduler in REPLAYED:
                self._tell_reports(tune_controller, trial, recorded)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        recorder = self._recorder
        recorded = recorder.report(number_of(trial), result)
        recorder.sync()
        if recorder.mistake is not None:
            return self.STOP
        if recorded is None:
            return self.CONTINUE
        decision = self._decide(tune_controller, trial, recorded, result)
        if trial.status == trial.PAUSED or decision == self.PAUSE:
            recorder.pause(recorded.number, int(result["step"]))
        self._record_copies(tune_controller)
        return decision

    def _decide(self, tune_controller: Any, trial: TuneTrial, recorded: Trial, result: dict[str, Any]) -> str:
        plan, recorder = self._plan, self._recorder
        free = recorded.kind in (BASELINE, FINALIST)
        guarded = not free and plan.config.scheduler != "fifo" and recorded.share >= plan.rungs.grace - ROUNDING
        if guarded and (why := recorder.violation(recorded)):
            recorder.end(recorded.number, REJECTED, why)
            return self.STOP
        inner_result = self._inner_result(recorded.reports[-1], result)
        if inner_result is None or not self._is_scheduled(recorded):
            return self.CONTINUE
        decision = self._inner.on_trial_result(tune_controller, trial, inner_result)
        if free or decision != self.STOP:
            return self.CONTINUE if free else decision
        why = stop_reason(plan, recorded, recorder.store.trials)
        if why is None:
            return self.CONTINUE
        recorder.end(recorded.number, STOPPED, why)
        return self.STOP

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Hear of a run that came to its end, or of one that this scheduler has ended."""
        number = number_of(trial)
        ended = self._recorder.store[number].over
        recorded = None if ended else self._recorder.finish(number, result)
        if not self._is_scheduled(self._recorder.store[number]):
            return
        finished = recorded is not None and recorded.status == FINISHED and recorded.reports
        inner_result = self._inner_result(recorded.reports[-1], result) if recorded is not None and finished else None
        if inner_result is not None:
            self._inner.on_trial_complete(tune_controller, trial, inner_result)
        else:
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Hear of a paused trial that the inner scheduler itself has ended."""
        recorded = self._recorder.store[number_of(trial)]
        if not recorded.over:
            self._recorder.end(recorded.number, STOPPED, f"at {recorded.share:.0%} of its budget it was not continued")
        if self._is_scheduled(recorded):
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        if self._is_scheduled(self._recorder.store[number_of(trial)]):
            self._inner.on_trial_error(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        chosen = self._inner.choose_trial_to_run(tune_controller)
        if chosen is not None and chosen.status == chosen.PAUSED and not self._recorder.has_room():
            return None
        return chosen

    def debug_string(self) -> str:
        return self._inner.debug_string()

    def _is_scheduled(self, recorded: Trial) -> bool:
        """Whether the inner scheduler knows a trial: not a repeat, and a baseline only where it does no harm."""
        return recorded.kind != FINALIST and (recorded.kind != BASELINE or self._plan.config.scheduler in REPLAYED)

    def _inner_result(self, report: TrialReport, result: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a report as the inner scheduler hears it; None for one without the metric, or between boundaries."""
        objective = self._plan.by[0]
        if len(self._plan.by) > 1 or objective.metric not in report.metrics:
            return None
        if self._plan.population_based and report.step % (report.steps // self._plan.config.intervals):
            return None
        return {
            "budget": 100 * report.share - self._clock_start + ROUNDING, "score": score(report, objective),
            "step": report.step,
            "training_iteration": result.get("training_iteration", report.step),
        }  # fmt: skip

    def _replay(self, tune_controller: Any) -> None:
        """Tell what the trials of a resumed sweep had reported; those that failed or were rejected leave no trace."""
        if self._plan.config.scheduler not in REPLAYED:
            return
        for recorded in self._recorder.store.trials:
            if recorded.kind in (BASELINE, SEARCH) and recorded.status in (FINISHED, STOPPED):
                stub = TuneTrial("xmodal", trial_id=recorded.name, stub=True)
                self._inner.on_trial_add(tune_controller, stub)
                self._tell_reports(tune_controller, stub, recorded)

    def _tell_reports(self, tune_controller: Any, trial: TuneTrial, recorded: Trial) -> None:
        for report in recorded.reports:
            if report.share < 1 and (inner_result := self._inner_result(report, {})) is not None:
                self._inner.on_trial_result(tune_controller, trial, inner_result)

    def _record_copies(self, tune_controller: Any) -> None:
        """Give a record of its own to each trial that population based training has made a copy of another one."""
        if not self._plan.population_based:
            return
        for trial in tune_controller.get_trials():
            own, current = self._numbers[trial.trial_id], number_of(trial)
            if own != current:
                step = int(trial.latest_checkpoint_result.metrics["step"])
                copy = self._recorder.copy(own, current, step, trial.config["trial"]["units"])
                self._numbers[trial.trial_id] = copy.number
                trial.set_config({**trial.config, "trial": self._plan.trial_config(copy)})


def number_of(trial: TuneTrial) -> int:
    """Return the number of the record of a trial of Tune."""
    number: int = trial.config["trial"]["number"]
    return number


def score(report: TrialReport, objective: SearchObjective) -> float:
    """Return the value of a report, larger being better; the worst of all where it is not finite."""
    value = objective.sign * float(report.metrics[objective.metric])
    return value if math.isfinite(value) else WORST


def stop_reason(plan: Plan, trial: Trial, trials: Sequence[Trial]) -> str | None:
    """Return why a trial that Tune's scheduler stops ends; None where it goes on: too few have reached its rung."""
    objective, metric = plan.by[0], plan.by[0].metric
    others = [
        other
        for other in trials
        if other.number != trial.number and other.kind != FINALIST and other.status not in (FAILED, REJECTED)
    ]
    if plan.config.scheduler != "asha":
        return f"at {trial.share:.0%} of its budget it was behind ({metric} {trial.last(metric):.4g})"
    place = max((p for p in plan.rungs.budget_shares() if trial.share >= p - ROUNDING), default=plan.rungs.grace)
    there = [value for other in others if (value := other.metric_at_share(metric, place)) is not None]
    if len(there) + 1 < plan.rungs.reduction:
        return None
    first = next(r for r in trial.reports if r.share >= place - ROUNDING and metric in r.metrics)
    ahead = sum(objective.sign * value > score(first, objective) for value in there)
    own = f"{metric} {first.metrics[metric]:.4g}"
    return f"at {place:.0%} of its budget {ahead} of {len(there)} others were ahead ({own})"
