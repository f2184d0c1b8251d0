"""The learning rate as a pure function of the step number."""

import math
from dataclasses import dataclass

from xmodal.errors import ConfigError


def cosine_schedule(step: int, *, warmup_steps: int, total_steps: int, peak: float, floor: float = 0.0) -> float:
    """Return the learning rate of update number `step` (counted from 0): linear warm-up, then half a cosine.

    Update `warmup_steps - 1` is the first at `peak`; the rate of update 0 is `peak / warmup_steps`, not 0. From
    `total_steps` on the rate is `floor`. Loshchilov & Hutter 2017, eq. 5, without restarts.

    >>> [round(cosine_schedule(step, warmup_steps=2, total_steps=6, peak=1.0), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """A `cosine_schedule` with fixed constants; call it with a step number. Raises ConfigError for impossible ones."""

    peak: float
    total_steps: int
    warmup_steps: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ConfigError(f"warmup_steps={self.warmup_steps} must lie between 0 and total_steps={self.total_steps}")
        if not 0 <= self.floor <= self.peak or not math.isfinite(self.peak):
            raise ConfigError(f"the learning rate's floor={self.floor} must lie between 0 and its peak={self.peak}")

    def __call__(self, step: int) -> float:
        return cosine_schedule(
            step,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
            peak=self.peak,
            floor=self.floor,
        )
