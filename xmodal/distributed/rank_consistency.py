"""What all ranks must see alike: local numbers in, the same numbers on every rank out."""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xmodal.distributed.ranks import Group, gather_rows, world_size
from xmodal.errors import RanksDiverged


def total(x: Float[Tensor, "K"], group: Group = None) -> Float[Tensor, "K"]:
    """The sum of `x` over ranks, in place."""
    if world_size(group) > 1:
        dist.all_reduce(x, group=group)
    return x


def gather_ragged(x: Int64[Tensor, "n"], group: Group = None) -> list[list[int]]:
    """Every rank's numbers, one list a rank; their counts may differ. Waits for the host: not for each step."""
    counts = gather_rows(torch.tensor([len(x)], device=x.device), group).tolist()
    padded = x.new_zeros(max(1, *counts))
    padded[: len(x)] = x
    every = gather_rows(padded, group).view(len(counts), -1)
    return [part[:count].tolist() for part, count in zip(every, counts, strict=True)]


def checksum(x: Tensor) -> Int64[Tensor, ""]:
    """The sum of a tensor's bits read as integers: equal bits give equal sums, one flipped bit another one."""
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.detach().reshape(-1).view(words).sum(dtype=torch.int64)


@torch.no_grad()
def check_same_weights(module: nn.Module, step: int, group: Group = None) -> None:
    """Raise RanksDiverged on every rank, naming the first parameter that differs between ranks.

    Catches a model that was never wrapped, a rank restored from another checkpoint, a rank that missed a reduction.
    Costs one read of the weights and one all-reduce of 16 bytes a parameter.
    """
    if world_size(group) == 1:
        return
    names, tensors = zip(*module.named_parameters(), strict=True)
    sums = torch.stack([checksum(x) for x in tensors])
    sums = torch.cat([sums, sums.new_tensor([step])])
    extremes = torch.cat([sums, -sums])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = extremes[: len(sums)], -extremes[len(sums) :]
    differing = (largest != smallest).nonzero().flatten().tolist()
    if differing:
        raise RanksDiverged(_diagnosis(step, [(*names, "(step)")[i] for i in differing], len(names)))


def _diagnosis(step: int, differing: list[str], count: int) -> str:
    if differing == ["(step)"]:
        return f"step {step}: ranks are at different steps; restore all of them from the same checkpoint"
    return (
        f"step {step}: {len(differing)} of {count} parameters differ between ranks, first {differing[0]!r}; "
        "the ranks were not synchronised (wrap the objective with DistributedDataParallel on all of them, "
        "restore all of them from the same checkpoint)"
    )
