"""Where a search that stops trials early compares them: shares of a trial's own full budget.

Schedules over the whole run (warm-up, cosine, a strength that ramps up) are those of a full run at every rung.
"""

import math
from dataclasses import dataclass

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


def grace_of_ramp(gamma: int | float) -> float:
    """The share of a run after which 2 / (1 + exp(-gamma p)) - 1 has come to `FULL`, at most 0.9."""
    return min(0.9, math.log((1 + FULL) / (1 - FULL)) / gamma)
