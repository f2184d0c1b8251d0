"""Endless batches of row numbers, and gradient norms recorded during the backward pass."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def endless_batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield batches of row numbers, every row once before any comes again; rows that fill no batch are left out."""
    size = min(size, count)
    while True:
        order = torch.from_numpy(rng.permutation(count))
        yield from (order[start : start + size] for start in range(0, count - size + 1, size))


def record_gradient_norm(features: Tensor, name: str, norms: dict[str, float]) -> Tensor:
    """Return the same features; the norm of the gradient that flows back through them is stored in `norms[name]`."""
    view = features.view_as(features)
    view.register_hook(lambda gradient: norms.__setitem__(name, float(gradient.norm())))
    return view
