"""What balanced multimodal learning can be asked for: names and ranges, without torch."""

import math
from dataclasses import dataclass
from typing import Literal

from xmodal.errors import ConfigError

Method = Literal[
    "joint",
    "uniform",
    "min_norm",
    "min_norm_scaled",
    "mmpareto",
    "mmpareto_continuous",
    "mmpareto_per_tensor",
    "pcgrad",
    "upgrad",
    "stop_gradient",
]
RESCALED = ("mmpareto", "mmpareto_continuous")
WITH_GAMMA = (*RESCALED, "mmpareto_per_tensor", "uniform")


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How the multimodal and the unimodal losses meet in each encoder.

    `joint` leaves the unimodal losses out. The others are the weightings of `xmodal.gradients`: `uniform` adds all
    losses up, `mmpareto` is Wei & Hu 2024, `stop_gradient` lets encoders learn from their unimodal loss alone.
    """

    method: Method = "mmpareto"  # what is done with the two gradients of an encoder
    space: Literal["features", "parameters"] = "features"  # where conflict is measured; features cost next to nothing
    gamma: float | None = None  # length of the step beside the sum's; None: 1.5 for mmpareto, 1 for uniform
    audit_every: int = 0  # steps between looks at what the other space would decide; 0: never
    rescale: tuple[float, float] = (0.1, 10.0)  # limits of mmpareto's factor on the length of the min-norm direction

    def __post_init__(self) -> None:
        if self.method == "mmpareto_per_tensor" and self.space == "features":
            raise ConfigError("mmpareto_per_tensor weighs parameter tensors: it needs space=parameters")
        if self.audit_every < 0:
            raise ConfigError(f"audit_every={self.audit_every} must be a number of steps, or 0 for no audit")
        if self.audit_every and self.method in ("joint", "mmpareto_per_tensor"):
            raise ConfigError(
                f"{self.method} weighs no whole encoders at the features, so that an audit has nothing to compare"
            )
        if self.gamma is not None and self.method not in WITH_GAMMA:
            raise ConfigError(f"{self.method} has no gamma; {', '.join(WITH_GAMMA)} have one")
        if self.gamma is not None and not 0 < self.gamma < math.inf:
            raise ConfigError(f"gamma={self.gamma} must be positive and finite (1.5 in the published code)")
        low, high = self.rescale
        if not 0 <= low <= high < math.inf:
            raise ConfigError(f"rescale={self.rescale} must be (low, high) with 0 <= low <= high, both finite")
