"""Measures how large the gradient of each loss is at a tensor that several losses share.

Each loss reads a view ("tap") of the tensor. During the ordinary backward pass a hook records the squared norm of the
gradient that arrives at the view, so no loss is differentiated twice.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor


class GradientNorms:
    """The squared norms of this rank's gradients at its taps since `clear`, by name."""

    def __init__(self) -> None:
        self._squares: dict[str, Tensor] = {}

    def clear(self) -> None:
        self._squares = {}

    def tap(self, name: str, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return a view of `x`; the gradients that arrive through it are measured under `name`."""
        view = x.view_as(x)
        if view.requires_grad:
            view.register_hook(partial(self._add, name))
        return view

    def squared_norm(self, name: str, device: torch.device) -> Float[Tensor, ""]:
        """Return the squared norm under `name`; 0 if no gradient has arrived."""
        return self._squares.get(name, torch.zeros((), dtype=torch.float64, device=device))

    def _add(self, name: str, gradient: Tensor) -> None:
        square = gradient.detach().double().square().sum()
        self._squares[name] = self._squares[name] + square if name in self._squares else square
