"""The strength of a domain loss (lambda) as a pure function of the step: step number in, strength out."""

import math
from dataclasses import dataclass

from xmodal.errors import ConfigError, nearest
from xmodal.losses.gradient_reversal import ramp
from xmodal.training.domain_methods import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class Strength:
    """`peak` from the first step on (`constant`), or rising towards it as in Ganin et al. 2016, §5.2.2 (`ramp`).

    `steps` are those of the planned run and `gamma` is the paper's: 0.46 of the peak after a tenth of the run, 0.99
    after half of it. Call it with the number of a step. ConfigError for a peak that is negative or not finite.
    """

    peak: float
    steps: int
    schedule: str = "ramp"
    gamma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.peak < math.inf:
            raise ConfigError(
                f"domain.strength={self.peak} must not be negative: the sign is the method's own, and 0 switches it off"
            )
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"unknown domain.schedule {self.schedule!r}; {nearest(self.schedule, SCHEDULES)}")
        if not 0 < self.gamma < math.inf:
            raise ConfigError(f"domain.gamma={self.gamma} must be positive and finite (10 in the paper)")

    def __call__(self, step: int) -> float:
        if self.schedule == "constant":
            return self.peak
        return self.peak * ramp(min(1.0, step / max(1, self.steps)), self.gamma)
