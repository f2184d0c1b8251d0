"""A trial's reports and those of the others in; whether one of Ray Tune's schedulers ends it, and why, out.

Tune's schedulers see results one by one, and keep what they saw in memory. Here one is made anew for every report and
told all that is recorded, so that a resumed sweep decides as an undisturbed one, and values of failed and rejected
trials (a collapsed one may look splendid) leave no trace in a rung. Time is the share of a trial's own budget, so that
schedules over the whole run are those of a full run at every rung. Nothing may be what it is not: a value that is not
finite counts as the worst (Tune's comparison lets a NaN go on), and a share may fall short of a rung by rounding. Nor
is Tune asked before 1/reduction of the trials at a rung is one trial: it would stop the second of two, and the first
other is the baseline (a sweep of three trials lost two to it alone).

Population-based training stays our own (`Strategy.exploit`). Tune's decides inside its trial runner: it pauses Tune's
actors and writes checkpoints into them, and its mutation multiplies a value by 0.8 or 1.2 whatever its range (a rate
leaves it, the ends of an interval cross) with draws of the process-wide `random`, which no resume repeats.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.search.objective import SearchObjective
from xmodal.search.rungs import Rungs
from xmodal.search.trial import FAILED, FINALIST, REJECTED, Trial, TrialReport

STOPPING = ("asha", "median")
ROUNDING = 1e-9  # of a share
WORST = -1e300  # finite: between two infinities Tune's percentile has no value
FEWEST = 3  # others, before there is a median to go by


@dataclass(frozen=True)
class _Known:
    """As much of a Tune trial as its schedulers look at."""

    trial_id: str


class _Controller:
    """As much of Tune's controller as its schedulers look at: there is nobody to yield to."""

    def get_live_trials(self) -> list[Any]:
        return []


def verdict(
    scheduler: str, rungs: Rungs, trial: Trial, trials: Sequence[Trial], objective: SearchObjective
) -> str | None:
    """Why the trial ends with its newest report; None where it goes on."""
    own = list(_results(trial, objective))
    if not own or own[-1]["share"] >= 1 or trial.reports[-1].metrics.get(objective.metric) is None:
        return None
    others = [
        other
        for other in trials
        if other.number != trial.number and other.kind != FINALIST and other.status not in (FAILED, REJECTED)
    ]
    told = [(other, list(_results(other, objective))) for other in others]
    if scheduler == "median":
        return _behind_median(trial, others, objective) if _median(rungs, trial, own, told) else None
    place = max((place for place in rungs.budget_shares() if trial.share >= place - ROUNDING), default=1.0)
    there = [value for other in others if (value := other.metric_at_share(objective.metric, place)) is not None]
    if len(there) + 1 < rungs.reduction or not _asha(rungs, trial, own, told):
        return None
    first = next(r for r in trial.reports if r.share >= place - ROUNDING and objective.metric in r.metrics)
    ahead = sum(objective.sign * value > _score(first, objective) for value in there)
    own_value = f"{objective.metric} {first.metrics[objective.metric]:.4g}"
    return f"at {place:.0%} of its budget {ahead} of {len(there)} others were ahead ({own_value})"


def _behind_median(trial: Trial, others: Sequence[Trial], objective: SearchObjective) -> str:
    value = f"{objective.metric} {trial.last(objective.metric):.4g}"
    return f"at {trial.share:.0%} of its budget it was behind the median of {len(others)} others ({value})"


def _results(trial: Trial, objective: SearchObjective) -> Iterator[dict[str, float]]:
    for report in trial.reports:
        if objective.metric in report.metrics:
            yield {"share": report.share + ROUNDING, "score": _score(report, objective)}


def _score(report: TrialReport, objective: SearchObjective) -> float:
    value = objective.sign * float(report.metrics[objective.metric])
    return value if math.isfinite(value) else WORST


Told = Sequence[tuple[Trial, list[dict[str, float]]]]


def _asha(rungs: Rungs, trial: Trial, own: list[dict[str, float]], told: Told) -> bool:
    """Asynchronous successive halving (Li et al. 2020): at each rung, once, a trial below the best share ends."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    rule = AsyncHyperBandScheduler(
        "share", metric="score", mode="max", max_t=1, grace_period=rungs.grace,  # type: ignore[arg-type]
        reduction_factor=rungs.reduction, stop_last_trials=False,
    )  # fmt: skip
    last = rule.CONTINUE
    for one, results in (*told, (trial, own)):
        known: Any = _Known(one.name)
        rule.on_trial_add(_Controller(), known)  # type: ignore[arg-type]
        for result in results:
            last = rule.on_trial_result(_Controller(), known, result)  # type: ignore[arg-type]
    return last == rule.STOP


def _median(rungs: Rungs, trial: Trial, own: list[dict[str, float]], told: Told) -> bool:
    """A trial whose best lies below the median of the others' means so far ends (Golovin et al. 2017)."""
    from ray.tune.schedulers import MedianStoppingRule

    rule = MedianStoppingRule(
        "share", metric="score", mode="max", grace_period=rungs.grace, min_samples_required=FEWEST
    )
    for one, results in (*told, (trial, own[:-1])):
        for result in results:
            rule.on_trial_complete(_Controller(), _Known(one.name), result)  # type: ignore[arg-type]
    return rule.on_trial_result(_Controller(), _Known(trial.name), own[-1]) == rule.STOP  # type: ignore[arg-type]
