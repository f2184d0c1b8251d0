"""What a learner's step is made of: batches without end, and gradients whose norm is noted on their way back."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def endless(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Batches of row numbers; every row once before any comes again, the last rows of a round left out."""
    size = min(size, count)
    while True:
        order = torch.from_numpy(rng.permutation(count))
        yield from (order[start : start + size] for start in range(0, count - size + 1, size))


def tapped(features: Tensor, name: str, norms: dict[str, float]) -> Tensor:
    """The same features; the norm of the gradient that comes back through them is noted in `norms[name]`."""
    copy = features.view_as(features)
    copy.register_hook(lambda gradient: norms.__setitem__(name, float(gradient.norm())))
    return copy
