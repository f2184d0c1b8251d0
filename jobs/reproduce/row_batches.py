"""Batches of rows from tensors in memory, in an order that depends on seed and epoch only."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from xmodal.batch import Batch

Fields = dict[str, torch.Tensor]
View = Callable[[Fields, np.random.Generator | None], Fields]


def unchanged_view(fields: Fields, rng: np.random.Generator | None) -> Fields:
    """Return the fields as they are."""
    return fields


@dataclass(frozen=True, eq=False)
class RowDataset:
    """Samples in memory: `fields[name]` [N, ...] holds one row a sample; `view` returns what a model is shown of them.

    With a generator the view may be random (crop, shift, masks); without one it is the same every time.
    """

    fields: Mapping[str, torch.Tensor]
    view: View = unchanged_view

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def batch(self, rows: torch.Tensor, rng: np.random.Generator | None = None) -> Batch:
        """Return these rows as the view shows them."""
        fields = self.view({name: x[rows] for name, x in self.fields.items()}, rng)
        return Batch(rows, torch.ones(len(rows), dtype=torch.bool), fields)

    def batches(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield every row once, with random views; the last rows that fill no batch are left out."""
        rng = np.random.default_rng((seed, epoch))
        order = torch.from_numpy(rng.permutation(len(self)))
        for start in range(0, len(self) - size + 1, size):
            yield self.batch(order[start : start + size], rng)

    def ordered_batches(self, size: int) -> Iterator[Batch]:
        """Return batches of all rows in their stored order, without random views."""
        return (self.batch(rows) for rows in torch.arange(len(self)).split(size))
