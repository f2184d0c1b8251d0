"""Parameters with gradients in, NeverSynchronised out where ranks hold different ones: the guard behind a backward.

Several backward passes over one DDP forward, `torch.autograd.grad`, or a second backward leave gradients that no
reduction has touched, without an error. The weights drift apart from the next update on.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from xmodal.distributed.rank_consistency import checksum
from xmodal.distributed.ranks import Group, world_size
from xmodal.errors import NeverSynchronised

NO_GRADIENT = 0x5EED  # what a missing gradient counts as, unlike that of zeros


@torch.no_grad()
def unsynchronised(parameters: Sequence[nn.Parameter], group: Group = None) -> Bool[Tensor, "p"]:
    """Which of p parameters have unequal gradients on the ranks of `group`, bit for bit; stays on the device.

    Reads the gradients once and sends 16 bytes a parameter. After a reduction all ranks hold the same bits, so that
    different ones mean that it was missed (equal ones prove nothing when all ranks have the same rows).
    """
    device = parameters[0].device
    if world_size(group) == 1:
        return torch.zeros(len(parameters), dtype=torch.bool, device=device)
    extremes = _both_ends([p.grad for p in parameters], device)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    count = len(parameters)
    return extremes[:count] != -extremes[count:]


def check_synchronised(module: nn.Module, step: int, group: Group = None) -> None:
    """Raise NeverSynchronised on every rank when a trainable parameter's gradient differs between ranks.

    Call it after the gradients are complete and before they are clipped. Waits for the host.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    differing = unsynchronised([p for _, p in named], group).nonzero().flatten().tolist() if named else []
    if differing:
        raise NeverSynchronised(
            f"step {step}: the gradients of {len(differing)} of {len(named)} parameters differ between ranks, first "
            f"{named[differing[0]][0]!r}; they were never averaged: run one backward through "
            "DistributedDataParallel, or let ParameterSpace differentiate the bare module"
        )


@torch.no_grad()
def follow_first_rank(module: nn.Module, group: Group = None) -> None:
    """Give every rank the buffers (running statistics) of the group's first rank, as DDP does before a forward.

    For steps that go around DDP: a parameter-space step calls the bare module.
    """
    if world_size(group) == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, group=group, group_src=0)


def _both_ends(gradients: list[Tensor | None], device: torch.device) -> Int64[Tensor, "q"]:
    missing = torch.tensor(NO_GRADIENT, dtype=torch.int64, device=device)
    sums = torch.stack([missing if g is None else checksum(g) for g in gradients])
    return torch.cat([sums, -sums])
