"""Tensors that several losses read in, views of them out that measure, in the ordinary backward, what each one sends.

A tap is the tensor itself; when the backward passes it, the square of the norm of that gradient is kept. No loss is
differentiated twice.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor


class GradientNorms:
    """The squares of this rank's gradients at its taps since `clear`, by name."""

    def __init__(self) -> None:
        self._squares: dict[str, Tensor] = {}

    def clear(self) -> None:
        self._squares = {}

    def tap(self, name: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`x`, of which the gradients that come through this view are measured under `name`."""
        view = x.view_as(x)
        if view.requires_grad:
            view.register_hook(partial(self._keep, name))
        return view

    def square(self, name: str, device: torch.device) -> Float[Tensor, ""]:
        """0 where no gradient has come."""
        return self._squares.get(name, torch.zeros((), dtype=torch.float64, device=device))

    def _keep(self, name: str, gradient: Tensor) -> None:
        square = gradient.detach().double().square().sum()
        self._squares[name] = self._squares[name] + square if name in self._squares else square
