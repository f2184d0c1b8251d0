"""The contract between the stream and the step: blocks of numpy columns in, one typed batch of tensors out.

The alphabet of the library: B pairs on this rank, N pairs over all ranks, D embedding width, L tokens, T frames,
C H W channels and pixels, K objectives, P parameters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one global batch; every tensor's first dimension is B.

    `row` is the row's number in its corpus (-1 for padding). A row whose `valid` is false is shape only: no anchor,
    no negative, no metric. `fields` holds the columns of each decoded field: `image` uint8 [B, H, W, 3],
    `text` int32 [B, L] token ids, `text_length` int32 [B], `text_id` int64 [B] (equal captions, equal ids).
    `parts` says how many consecutive rows play which role, where not all rows play the same; a column that rows of a
    role lack is zeros there.
    """

    row: Int64[Tensor, "B"]
    valid: Bool[Tensor, "B"]
    fields: dict[str, Tensor]
    parts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.row.shape[0]

    def __getitem__(self, rows: slice) -> "Batch":
        fields = {name: x[rows] for name, x in self.fields.items()}
        return Batch(self.row[rows], self.valid[rows], fields, self._overlap(rows))

    def part(self, role: str) -> slice:
        """The rows that play this role; an empty slice where none does."""
        start = 0
        for name, rows in self.parts.items():
            if name == role:
                return slice(start, start + rows)
            start += rows
        return slice(start, start)

    def _overlap(self, rows: slice) -> dict[str, int]:
        start, stop, _ = rows.indices(len(self))
        spans = ((name, self.part(name)) for name in self.parts)
        return {name: max(0, min(stop, span.stop) - max(start, span.start)) for name, span in spans}

    def chunks(self, size: int) -> Iterator["Batch"]:
        """Consecutive parts of `size` rows; the last one may be shorter."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`; pinned host memory is copied asynchronously."""
        move = {name: x.to(device, non_blocking=True) for name, x in self.fields.items()}
        return replace(
            self,
            row=self.row.to(device, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
            fields=move,
        )
