"""Checks that gradients were averaged over ranks after the backward.

Several backward passes over one DDP forward, `torch.autograd.grad`, or a second backward leave gradients that no
reduction has touched, without an error. From the next update on the weights of the ranks drift apart.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from xmodal.distributed.rank_consistency import bit_checksum
from xmodal.distributed.ranks import Group, world_size
from xmodal.errors import NeverSynchronised

NO_GRADIENT = 0x5EED  # the checksum of a missing gradient; that of zeros is 0


@torch.no_grad()
def find_unsynchronised(parameters: Sequence[nn.Parameter], group: Group = None) -> Bool[Tensor, "p"]:
    """Find the parameters (of p) whose gradients differ between the ranks of `group`; the result stays on the device.

    Reads the gradients once and sends 16 bytes for each parameter. After a reduction all ranks hold the same bits, so
    different bits mean that the reduction was missed. (Equal bits prove nothing if all ranks have the same rows.)
    """
    device = parameters[0].device
    if world_size(group) == 1:
        return torch.zeros(len(parameters), dtype=torch.bool, device=device)
    extremes = _checksums_and_negatives([p.grad for p in parameters], device)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    count = len(parameters)
    return extremes[:count] != -extremes[count:]


def check_synchronised(module: nn.Module, step: int, group: Group = None) -> None:
    """Raise NeverSynchronised on every rank if the gradient of a trainable parameter differs between ranks.

    Call it after the gradients are complete and before they are clipped. Waits for the host.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    differing = find_unsynchronised([p for _, p in named], group).nonzero().flatten().tolist() if named else []
    if differing:
        raise NeverSynchronised(
            f"step {step}: the gradients of {len(differing)} of {len(named)} parameters differ between ranks, first "
            f"{named[differing[0]][0]!r}; they were never averaged: run one backward through "
            "DistributedDataParallel, or let ParameterSpace differentiate the bare module"
        )


@torch.no_grad()
def broadcast_buffers(module: nn.Module, group: Group = None) -> None:
    """Copy the buffers (running statistics) of the group's first rank to all ranks, as DDP does before a forward.

    For steps that do not run through DDP: a parameter-space step calls the bare module.
    """
    if world_size(group) == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, group=group, group_src=0)


def _checksums_and_negatives(gradients: list[Tensor | None], device: torch.device) -> Int64[Tensor, "q"]:
    """Return the checksums and their negatives: one MAX reduction then yields the maximum and the minimum."""
    missing = torch.tensor(NO_GRADIENT, dtype=torch.int64, device=device)
    sums = torch.stack([missing if g is None else bit_checksum(g) for g in gradients])
    return torch.cat([sums, -sums])
