"""Gathering of the valid rows of all ranks, for losses that every rank computes as a whole.

A distance between two sets of rows is no sum over rows: every rank needs all of them, and then all ranks compute the
same number. So the backward communicates nothing: the gradient of a rank is W times that of the whole loss at its own
rows, and DDP's mean over W ranks makes it the gradient of the whole loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from xmodal.distributed.ranks import Group, current_rank, gather_rows, world_size


def gather_valid_rows(
    x: Float[Tensor, "B D"], valid: Bool[Tensor, "B"] | None, group: Group = None
) -> Float[Tensor, "n D"]:
    """Return the valid rows of all ranks in the order of the ranks, as float32 or wider.

    Gradients flow to this rank's own rows. A collective call (of one number, and of the rows); it waits for the device.
    Ranks may hold different numbers of rows, also none, and their rows need not require gradients. `valid` None means
    that all rows count.
    """
    rows = x if x.dtype == torch.float64 else x.float()
    local = rows if valid is None else rows[valid]
    if world_size(group) == 1:
        return local
    counts = gather_rows(torch.tensor([len(local)], device=x.device), group).tolist()
    return _gather_with_gradient(local, tuple(counts), group)


class _ValidRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: tuple[int, ...], group: Group) -> Tensor:
        first = sum(counts[: current_rank(group)])
        ctx.local, ctx.world = slice(first, first + len(local)), len(counts)
        longest = max(counts)
        if longest == 0:
            return local.clone()
        gathered = torch.split(gather_rows(F.pad(local, (0, 0, 0, longest - len(local))), group), longest)
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.local] * ctx.world, None, None


_gather_with_gradient: Callable[..., Tensor] = _ValidRows.apply


def all_valid(rows: Shaped[Tensor, "B ..."], valid: Bool[Tensor, "B"] | None) -> Bool[Tensor, "B"]:
    """Return the mask of the valid rows; None means that all rows count."""
    return torch.ones(len(rows), dtype=torch.bool, device=rows.device) if valid is None else valid
