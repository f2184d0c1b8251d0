"""The options of balanced multimodal learning; imports no torch."""

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
class GradientBalance:
    """How the gradients of the multimodal and the unimodal loss are combined in each encoder.

    `joint` trains without unimodal losses. The other methods are weightings of `xmodal.gradients`: `uniform` adds the
    gradients, `mmpareto` is Wei & Hu 2024, `stop_gradient` trains each encoder by its unimodal loss alone.

    >>> GradientBalance(method="uniform", gamma=2.0).space
    'features'
    """

    method: Method = "mmpareto"  # what is done with the multimodal and the unimodal gradient of each encoder
    space: Literal["features", "parameters"] = "features"
    """where the two gradients are compared: at the encoder's features, which costs next to
    nothing, or exactly, at its parameters"""
    gamma: float | None = None
    """length of the combined gradient, in lengths of the sum of both; None: 1.5 for mmpareto,
    1 for uniform"""
    audit_every: int = 0  # number of steps between two measurements of what the other space would decide; 0: none
    rescale: tuple[float, float] = (0.1, 10.0)
    """limits (low, high) of mmpareto's factor on the length of the min-norm direction"""

    def __post_init__(self) -> None:
        if self.method == "mmpareto_per_tensor" and self.space == "features":
            raise ConfigError("mmpareto_per_tensor weights parameter tensors: it needs space=parameters")
        if self.audit_every < 0:
            raise ConfigError(f"audit_every={self.audit_every} must be a number of steps, or 0 for no audit")
        if self.audit_every and self.method in ("joint", "mmpareto_per_tensor"):
            raise ConfigError(
                f"{self.method} does not weight whole encoders at the features, so an audit has nothing to compare: "
                "use audit_every=0"
            )
        if self.gamma is not None and self.method not in WITH_GAMMA:
            raise ConfigError(f"{self.method} has no gamma; {', '.join(WITH_GAMMA)} have one")
        if self.gamma is not None and not 0 < self.gamma < math.inf:
            raise ConfigError(f"gamma={self.gamma} must be positive and finite (1.5 in the published code)")
        low, high = self.rescale
        if not 0 <= low <= high < math.inf:
            raise ConfigError(f"rescale={self.rescale} must be (low, high) with 0 <= low <= high, both finite")
