"""The gradient-reversal layer of adversarial adaptation, and the schedule of its strength; neither keeps any state."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def reverse(x: Float[Tensor, "..."], strength: Float[Tensor, ""] | float) -> Float[Tensor, "..."]:
    """`x` itself; in the backward its gradient times -`strength` (Ganin & Lempitsky 2015, eq. 13 and 14).

    Whatever reads the result (a critic) trains at weight 1, what stands before `x` trains against it with weight
    `strength` >= 0, the paper's lambda. With 0 the critic stays in the graph and the encoder gets exact zeros. It is an
    argument and no counter in a layer: a function of the global step has nothing to lose when a run resumes.
    """
    return _Reverse.apply(x, strength)


def ramp(progress: float, gamma: float = 10.0) -> float:
    """The paper's strength at `progress` in [0, 1] of the planned run: 2 / (1 + exp(-gamma p)) - 1, from 0 to almost 1.

    Ganin et al. 2016, §5.2.2: 0.05 at 0.01, 0.46 at 0.1, 0.99 at 0.5 for gamma = 10. ValueError outside [0, 1].
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress={progress} of a run lies in 0..1")
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor | float) -> Tensor:
        ctx.strength = strength.detach() if isinstance(strength, Tensor) else strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.strength, None
