"""The rungs of successive halving: shares of a trial's full budget at which trials are compared.

Schedules over the whole run (warm-up, cosine, a ramp of the strength) are those of a full run at every rung.
"""

import math
from dataclasses import dataclass

FULL = 0.95  # share of its peak from which on a ramp of the strength no longer favours small strengths


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """Rungs at `grace`, `grace * reduction`, ... of the budget; at each the best 1 / `reduction` of trials continue."""

    grace: float
    reduction: int | float = 3.0

    def budget_shares(self) -> list[float]:
        """Return the shares of the budget, below 1."""
        count = max(0, math.ceil(math.log(1 / self.grace) / math.log(self.reduction) - 1e-9))
        return [self.grace * self.reduction**k for k in range(count)]


def grace_of_ramp(gamma: int | float) -> float:
    """Return the share p of a run at which 2 / (1 + exp(-gamma p)) - 1 reaches `FULL`, at most 0.9."""
    return min(0.9, math.log((1 + FULL) / (1 - FULL)) / gamma)
