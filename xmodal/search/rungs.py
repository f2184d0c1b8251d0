"""Asynchronous successive halving (Li et al. 2020, stopping variant): trials in, whether one of them goes on out.

Places are shares of a trial's own full budget, so that schedules over the whole run (warm-up, cosine, a strength that
ramps up) are those of a full run at every rung. A pure function of what was reported: a restart decides alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.search.objective import Objective
from xmodal.search.trial import BASELINE, FAILED, FINALIST, REJECTED, Trial

FULL = 0.95  # of its peak: from there on a ramp of the strength no longer favours small ones


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """At `grace`, `grace * reduction`, ... of the budget the best 1 / `reduction` go on."""

    grace: float
    reduction: int | float = 3.0

    def places(self) -> list[float]:
        """Shares of the budget below 1."""
        count = max(0, math.ceil(math.log(1 / self.grace) / math.log(self.reduction) - 1e-9))
        return [self.grace * self.reduction**k for k in range(count)]

    def reached(self, trial: Trial) -> float | None:
        """The highest rung at or below the trial's newest report."""
        return max((place for place in self.places() if trial.share >= place - 1e-9), default=None)

    def verdict(self, trial: Trial, trials: Sequence[Trial], objective: Objective) -> str | None:
        """Why the trial is stopped at the rung that it stands on; None where it goes on. A baseline always does."""
        place = self.reached(trial)
        if place is None or trial.kind in (BASELINE, FINALIST):
            return None
        own = trial.at(objective.metric, place)
        if own is None:
            return None
        others = [
            value
            for other in trials
            if other.number != trial.number
            and other.kind != FINALIST
            and other.status not in (FAILED, REJECTED)
            and (value := other.at(objective.metric, place)) is not None
            and math.isfinite(value)
        ]
        if len(others) + 1 < self.reduction:  # too few to have a best share
            return None
        ahead = sum(objective.sign * value > objective.sign * own for value in others)
        kept = max(1, math.floor((len(others) + 1) / self.reduction))
        if math.isfinite(own) and ahead < kept:
            return None
        return f"at {place:.0%} of its budget {ahead} of {len(others)} others were ahead ({objective.metric} {own:.4g})"


def grace_of_ramp(gamma: int | float) -> float:
    """The share of a run after which 2 / (1 + exp(-gamma p)) - 1 has come to `FULL`, at most 0.9."""
    return min(0.9, math.log((1 + FULL) / (1 - FULL)) / gamma)
