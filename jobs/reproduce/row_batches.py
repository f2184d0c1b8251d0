"""Tensors in memory in, batches of rows in an order of (seed, epoch) out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from xmodal.batch import Batch

Fields = dict[str, torch.Tensor]
View = Callable[[Fields, np.random.Generator | None], Fields]


def as_they_are(fields: Fields, rng: np.random.Generator | None) -> Fields:
    """The view that changes nothing."""
    return fields


@dataclass(frozen=True, eq=False)
class Rows:
    """`fields[name]` [N, ...], row by row the same samples; `view` is what a model is shown of them.

    With a generator the view may be a random one (crop, shift, masks); without one it is the same every time.
    """

    fields: Mapping[str, torch.Tensor]
    view: View = as_they_are

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def batch(self, rows: torch.Tensor, rng: np.random.Generator | None = None) -> Batch:
        seen = self.view({name: x[rows] for name, x in self.fields.items()}, rng)
        return Batch(rows, torch.ones(len(rows), dtype=torch.bool), seen)

    def batches(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Every row once, views drawn; the last rows that fill no batch are left out."""
        rng = np.random.default_rng((seed, epoch))
        order = torch.from_numpy(rng.permutation(len(self)))
        for start in range(0, len(self) - size + 1, size):
            yield self.batch(order[start : start + size], rng)

    def parts(self, size: int) -> Iterator[Batch]:
        """All rows in their own order, views not drawn."""
        return (self.batch(rows) for rows in torch.arange(len(self)).split(size))
