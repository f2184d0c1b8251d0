"""The gradient-reversal layer of adversarial adaptation (DANN), and the published schedule of its strength."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def reverse_gradient(x: Float[Tensor, "..."], strength: Float[Tensor, ""] | float) -> Float[Tensor, "..."]:
    """Return `x`; the backward multiplies its gradient by -`strength` (Ganin & Lempitsky 2015, eq. 13 and 14).

    A critic that reads the result trains with weight 1; the encoder before `x` trains against it with weight `strength`
    >= 0, the paper's lambda. At 0 the critic stays in the graph and the encoder gets exact zeros. The strength is an
    argument and no counter in a layer: as a function of the global step it is right again after a resume.

    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    return _apply_reversal(x, strength)


class GradientReversal(nn.Module):
    """`reverse_gradient` as a layer, for `nn.Sequential`; set `strength` at each step for a schedule.

    >>> critic = nn.Sequential(GradientReversal(0.3), nn.Linear(8, 1))
    >>> critic[0].strength = dann_ramp(progress=0.1)
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return `x`; the backward multiplies its gradient by -`strength`."""
        return reverse_gradient(x, self.strength)

    def extra_repr(self) -> str:
        """Show the strength where the module is printed."""
        return f"strength={self.strength}"


def dann_ramp(progress: float, gamma: float = 10.0) -> float:
    """Return the published strength at `progress` in [0, 1] of the run: 2 / (1 + exp(-gamma p)) - 1, from 0 towards 1.

    Ganin et al. 2016, §5.2.2. For gamma = 10 it is 0.05 at 0.01, 0.46 at 0.1 and 0.99 at 0.5. Raises ValueError outside
    [0, 1].

    >>> round(dann_ramp(0.1), 2)
    0.46
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress={progress} of a run lies in 0..1")
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor | float) -> Tensor:
        ctx.strength = strength.detach() if isinstance(strength, Tensor) else strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.strength, None


_apply_reversal: Callable[..., Tensor] = _ReverseGradient.apply
