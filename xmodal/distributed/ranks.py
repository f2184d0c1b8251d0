"""Collectives over the rows of a batch that also work without a process group.

W ranks hold B rows each; gathered rows are in the order of the ranks, N = W * B. Without an initialised default group
and without an explicit one, the world has one rank and nothing is communicated.
"""

import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

Group = dist.ProcessGroup | None


def world_size(group: Group = None) -> int:
    """Return the number of ranks in `group` (None: the default group; 1 if there is none).

    >>> world_size()
    1
    """
    return dist.get_world_size(group) if _has_group(group) else 1


def current_rank(group: Group = None) -> int:
    """Return the rank of this process in `group`, 0 if there is none."""
    return dist.get_rank(group) if _has_group(group) else 0


def gather_rows(x: Shaped[Tensor, "B ..."], group: Group = None) -> Shaped[Tensor, "N ..."]:
    """Gather the rows of all ranks, without a gradient; return `x` itself in a world of one rank."""
    world = world_size(group)
    if world == 1:
        return x
    gathered = x.new_empty(world * x.shape[0], *x.shape[1:])
    _all_gather(gathered, x.contiguous(), group=group)
    return gathered


def reduce_scatter_sum(x: Shaped[Tensor, "N ..."], group: Group = None) -> Shaped[Tensor, "B ..."]:
    """Sum `x` over ranks and return the part that belongs to this rank's rows; `x` itself in a world of one rank."""
    world = world_size(group)
    if world == 1:
        return x
    own_rows = x.new_empty(x.shape[0] // world, *x.shape[1:])
    _reduce_scatter(own_rows, x.contiguous(), group=group)
    return own_rows


def _has_group(group: Group) -> bool:
    return group is not None or (dist.is_available() and dist.is_initialized())


# torch 2.13 renamed both; the older names still work there but warn
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
