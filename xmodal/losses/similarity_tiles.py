"""The similarity matrix of a contrastive loss, computed tile by tile in one reused buffer.

b rows of this rank against n columns, the rows of all ranks; the whole matrix never exists. A t x t tile costs one
product of 2 t t D flops, and two more for the gradients: 90 % of the time on a CPU at D = 512. On a GPU a tile must be
large enough to hide the launches of its dozen kernels: a few thousand rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.pairs import GatheredPairs

CPU_TILE = 2048  # two buffers of 16 MiB; with smaller ones threads wait for each other on a busy machine
DEVICE_TILE = 4096  # two buffers of 64 MiB; one product is 17 GFLOP at D = 512


@dataclass(frozen=True)
class SimilarityTile:
    """One block of the similarity matrix; `logits`, `positives` and `scratch` are overwritten by the next one.

    `x` [r, D] are the scaled features of `rows`, `y` [c, D] those of `columns`, `logits` = x yᵀ [r, c] with -inf at
    duplicates. `positives` is the part of the diagonal of true pairs inside this tile, a view of `logits`, and
    `positive_rows` its rows. `scratch` [r, c] is free for use.
    """

    rows: slice
    columns: slice
    x: Tensor
    y: Tensor
    logits: Tensor
    scratch: Tensor
    positives: Tensor
    positive_rows: slice


def iterate_tiles(pairs: GatheredPairs, scale: Tensor, size: int | None) -> Iterator[SimilarityTile]:
    """Yield the tiles of scale * u vᵀ, row by row, computed in the dtype of `scale`.

    The true pair of row i is column `local_columns.start` + i; `offset` is where that diagonal enters the tile.
    """
    u, v, duplicates = pairs.u, pairs.v, pairs.duplicates
    size = size or (CPU_TILE if u.device.type == "cpu" else DEVICE_TILE)
    area = min(size, len(u)) * min(size, len(v))
    buffers = [torch.empty(area, dtype=scale.dtype, device=u.device) for _ in range(2)]
    masks = [torch.empty(area, dtype=torch.bool, device=u.device) for _ in range(2 if duplicates else 0)]
    for rows in _slices(len(u), size):
        x = u[rows].to(scale.dtype) * scale
        for columns in _slices(len(v), size):
            y = v[columns].to(scale.dtype)
            logits, scratch = (_view(buffer, len(x), len(y)) for buffer in buffers)
            with _exact_float32():
                torch.mm(x, y.T, out=logits)
            offset = pairs.rows.local_columns.start + rows.start - columns.start
            if duplicates:
                mask, spare = (_view(mask, len(x), len(y)) for mask in masks)
                duplicates.mark(rows, columns, mask, spare).diagonal(offset).fill_(False)
                logits.masked_fill_(mask, -torch.inf)
            positives = logits.diagonal(offset)
            start = rows.start + max(0, -offset)
            yield SimilarityTile(rows, columns, x, y, logits, scratch, positives, slice(start, start + len(positives)))


class FeatureGradients:
    """The gradients of the features and the scale, summed over tiles from the gradients G of the logits.

    `needed` says for (u, v, log_scale, ...) whether a gradient is required; it must be the same on all ranks.
    """

    def __init__(self, pairs: GatheredPairs, scale: Tensor, needed: Sequence[bool]) -> None:
        self.pairs = pairs
        self.scale = scale
        self.du = _zeros(pairs.u, scale.dtype) if needed[0] or needed[2] else None  # of scale * u, till `finish`
        self.dv = _zeros(pairs.v, scale.dtype) if needed[1] else None

    def add(self, tile: SimilarityTile, dlogits: Tensor) -> None:
        """Add the gradients of one tile: d(scale * u) = G v and dv = Gᵀ (scale * u)."""
        if self.du is not None:
            self.du[tile.rows].addmm_(dlogits, tile.y)
        if self.dv is not None:
            self.dv[tile.columns].addmm_(dlogits.T, tile.x)

    def finish(self, weight: Tensor, group: Group) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return (du [B, D], dv [B, D], dlog_scale []) times `weight`, dv summed over ranks; None if not needed."""
        rows, du, dv, dlog_scale = self.pairs.rows, None, None, None
        if self.dv is not None:
            dv = rows.reduce_to_local(self.dv.mul_(weight), group)
        if self.du is not None:
            du = self.du.mul_(self.scale * weight)
            # logits = scale * u vᵀ, so dL/dlog_scale = <dL/du, u>; by parts, to need no second [b, D]
            parts = zip(torch.split(du, CPU_TILE), torch.split(self.pairs.u, CPU_TILE), strict=True)
            dlog_scale = torch.stack([(dx * x).sum() for dx, x in parts]).sum()
            du = rows.restore_local(du)
        return du, dv, dlog_scale


def logits_dtype(u: Tensor, v: Tensor) -> torch.dtype:
    """Return float64 if a feature tensor is float64, otherwise float32."""
    return torch.promote_types(torch.promote_types(u.dtype, v.dtype), torch.float32)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Compute float32 matrix products without TF32 or bfloat16.

    Logits reach +-100: ten bits of mantissa (TF32) would round them by 0.05, seven (bfloat16) by 0.4. Only the logits
    are protected, because forward and backward must agree on them; the products of the gradients follow the user's
    `torch.set_float32_matmul_precision`.
    """
    previous = torch.get_float32_matmul_precision()
    if previous == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _view(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _zeros(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(x.shape, dtype=dtype, device=x.device)
