"""The learning rate as a pure function of the step: step number in, learning rate out."""

import math
from dataclasses import dataclass

from xmodal.errors import ConfigError


def cosine_schedule(step: int, *, warmup_steps: int, total_steps: int, peak: float, floor: float = 0.0) -> float:
    """The learning rate of update number `step` (counted from 0): linear warm-up, then half a cosine.

    Update `warmup_steps - 1` is the first at `peak`; update 0 already moves (`peak / warmup_steps`). From
    `total_steps` on the rate is `floor`. Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """`cosine_schedule` with its constants bound: call it with a step. Raises ConfigError on an impossible one."""

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
