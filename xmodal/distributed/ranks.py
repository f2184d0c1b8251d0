"""One rank's rows go in, all ranks' rows come out (and gradients the other way), with or without a process group.

W ranks hold B rows each; rows of all ranks stand in the order of the ranks, N = W * B. Without an initialised default
group, and without an explicit one, the world has one rank and nothing is sent.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

Group = dist.ProcessGroup | None


def world_size(group: Group = None) -> int:
    """The number of ranks in `group` (None: the default group; 1 where there is none)."""
    return dist.get_world_size(group) if _connected(group) else 1


def rank_in(group: Group = None) -> int:
    """This process's rank in `group`, 0 where there is none."""
    return dist.get_rank(group) if _connected(group) else 0


def across_ranks(x: Shaped[Tensor, "B ..."], group: Group = None) -> Shaped[Tensor, "N ..."]:
    """The rows of all ranks; the backward *sums* over ranks the gradients of this rank's rows (a reduce-scatter).

    With each rank's loss a sum over its own rows x W / (rows of all ranks), DDP's mean then yields the gradient of the
    global mean. Every rank must hold equally many rows and must take part in the backward.
    """
    return x if world_size(group) == 1 else _AcrossRanks.apply(x, group)


def gather_rows(x: Shaped[Tensor, "B ..."], group: Group = None) -> Shaped[Tensor, "N ..."]:
    """The rows of all ranks, without a gradient; `x` itself in a world of one."""
    world = world_size(group)
    if world == 1:
        return x
    gathered = x.new_empty(world * x.shape[0], *x.shape[1:])
    _all_gather(gathered, x.contiguous(), group=group)
    return gathered


def scatter_sum(x: Shaped[Tensor, "N ..."], group: Group = None) -> Shaped[Tensor, "B ..."]:
    """The sum over ranks of the part of `x` that belongs to this rank's rows; `x` itself in a world of one."""
    world = world_size(group)
    if world == 1:
        return x
    mine = x.new_empty(x.shape[0] // world, *x.shape[1:])
    _reduce_scatter(mine, x.contiguous(), group=group)
    return mine


def mean_over_ranks(share: Shaped[Tensor, "..."], group: Group = None) -> Shaped[Tensor, "..."]:
    """The mean over ranks, detached: of a loss's shares it is the global loss, for logging. A collective call."""
    mean = share.detach().clone()
    if world_size(group) > 1:
        dist.all_reduce(mean, group=group)
    return mean / world_size(group)


def _connected(group: Group) -> bool:
    return group is not None or (dist.is_available() and dist.is_initialized())


class _AcrossRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return gather_rows(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return scatter_sum(gradient, ctx.group), None


# torch 2.13 renamed both; the older names still work there but warn
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
