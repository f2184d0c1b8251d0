"""The typed batch that the stream delivers and the training step reads.

Dimensions have the same letters in the whole library: B pairs on this rank, N pairs over all ranks, D embedding width,
L tokens, T frames, C H W channels and pixels, K objectives, P parameters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one global batch; the first dimension of every tensor is B.

    `row` is the number of a row in its corpus (-1 for padding). Rows whose `valid` is false only keep the shape: losses
    and metrics ignore them, as anchors and as negatives. `fields` holds the columns of each decoded field: `image`
    uint8 [B, H, W, 3], `text` int32 [B, L] token ids, `text_length` int32 [B], `text_id` int64 [B] (equal captions have
    equal ids). `role_sizes` maps a role (`source`, `target`, ...) to the number of consecutive rows that play it, in
    the order of the rows; it is empty where all rows play the same role. A column that the rows of a role lack is zero
    there.

    >>> batch = Batch(torch.arange(3), torch.tensor([True, True, False]), {"text_id": torch.tensor([7, 7, 0])})
    >>> len(batch), batch[1:].row.tolist()
    (3, [1, 2])
    """

    row: Int64[Tensor, "B"]
    valid: Bool[Tensor, "B"]
    fields: dict[str, Tensor]
    role_sizes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.row.shape[0]

    def __getitem__(self, rows: slice) -> "Batch":
        fields = {name: x[rows] for name, x in self.fields.items()}
        return Batch(self.row[rows], self.valid[rows], fields, self._overlap(rows))

    def rows_of(self, role: str) -> slice:
        """Return the rows that play a role; an empty slice if none does."""
        start = 0
        for name, rows in self.role_sizes.items():
            if name == role:
                return slice(start, start + rows)
            start += rows
        return slice(start, start)

    def _overlap(self, rows: slice) -> dict[str, int]:
        """Return how many of the selected rows play each role."""
        start, stop, _ = rows.indices(len(self))
        spans = ((name, self.rows_of(name)) for name in self.role_sizes)
        return {name: max(0, min(stop, span.stop) - max(start, span.start)) for name, span in spans}

    def chunks(self, size: int) -> Iterator["Batch"]:
        """Iterate over consecutive batches of `size` rows; the last one may be shorter."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def to(self, device: torch.device | str) -> "Batch":
        """Return this batch on `device`; pinned host memory is copied asynchronously."""
        fields = {name: x.to(device, non_blocking=True) for name, x in self.fields.items()}
        return replace(
            self,
            row=self.row.to(device, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
            fields=fields,
        )
