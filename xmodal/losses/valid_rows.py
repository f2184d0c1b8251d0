"""This rank's rows and masks in, the valid rows of all ranks out, for losses that every rank computes as a whole.

A distance between two sets of rows is no sum over rows: every rank needs all of them, and then all ranks compute the
same number. So nothing has to be sent in the backward: a rank's gradient is W times that of the whole loss at its own
rows, and DDP's mean over W ranks makes it the gradient of the whole loss.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from xmodal.distributed.ranks import Group, gather_rows, rank_in, world_size


def valid_rows(x: Float[Tensor, "B D"], valid: Bool[Tensor, "B"], group: Group = None) -> Float[Tensor, "n D"]:
    """The valid rows of all ranks in the order of the ranks, at least in float32; gradients flow to this rank's own.

    A collective call (of one number, and of the rows; it waits for the device). Ranks may hold different numbers of
    rows, and none; a rank whose rows need no gradient holds up nobody.
    """
    own = (x if x.dtype == torch.float64 else x.float())[valid]
    if world_size(group) == 1:
        return own
    counts = gather_rows(torch.tensor([len(own)], device=x.device), group).tolist()
    return _ValidRows.apply(own, tuple(counts), group)


class _ValidRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: tuple[int, ...], group: Group) -> Tensor:
        first = sum(counts[: rank_in(group)])
        ctx.own, ctx.world = slice(first, first + len(own)), len(counts)
        most = max(counts)
        if most == 0:
            return own.clone()
        every = gather_rows(F.pad(own, (0, 0, 0, most - len(own))), group).split(most)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.own] * ctx.world, None, None
