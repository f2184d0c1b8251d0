"""The strength of a domain loss (lambda) as a pure function of the step number."""

import math
from dataclasses import dataclass

from xmodal.errors import ConfigError, nearest
from xmodal.losses.gradient_reversal import dann_ramp
from xmodal.training.domain_methods import STRENGTH_SCHEDULES


@dataclass(frozen=True, kw_only=True)
class StrengthSchedule:
    """The strength of each step: `peak` from the first step on (`constant`), or a ramp towards it (`ramp`).

    The ramp is that of Ganin et al. 2016, §5.2.2: `steps` is the planned length of the run, `gamma` the paper's
    constant. With 10 the strength is 0.46 of the peak after a tenth of the run and 0.99 after half of it. Call the
    schedule with the number of a step. Raises ConfigError for a peak that is negative or not finite.

    >>> schedule = StrengthSchedule(peak=0.3, steps=1000)
    >>> [round(schedule(step), 3) for step in (0, 100, 500)]
    [0.0, 0.139, 0.296]
    """

    peak: float
    steps: int
    schedule: str = "ramp"
    gamma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.peak < math.inf:
            raise ConfigError(
                f"domain.strength={self.peak} must be finite and at least 0: "
                "the method sets the sign, and 0 turns the loss off"
            )
        if self.schedule not in STRENGTH_SCHEDULES:
            raise ConfigError(
                f"unknown domain.schedule {self.schedule!r}; {nearest(self.schedule, STRENGTH_SCHEDULES)}"
            )
        if not 0 < self.gamma < math.inf:
            raise ConfigError(f"domain.gamma={self.gamma} must be positive and finite (10 in the paper)")

    def __call__(self, step: int) -> float:
        if self.schedule == "constant":
            return self.peak
        return self.peak * dann_ramp(min(1.0, step / max(1, self.steps)), self.gamma)
