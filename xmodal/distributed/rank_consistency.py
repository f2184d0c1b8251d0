"""Checks that all ranks hold the same weights, and the collectives that such checks and metrics need."""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from xmodal.distributed.ranks import Group, gather_rows, world_size
from xmodal.errors import RanksDiverged


def all_reduce_sum(x: Float[Tensor, "K"], group: Group = None) -> Float[Tensor, "K"]:
    """Sum `x` over ranks, in place, and return it."""
    if world_size(group) > 1:
        dist.all_reduce(x, group=group)
    return x


def gather_ragged(x: Int64[Tensor, "n"], group: Group = None) -> list[list[int]]:
    """Gather integers of every rank, one list for each rank; the lists may have different lengths.

    Waits for the host, so it is not for every step.
    """
    counts = gather_rows(torch.tensor([len(x)], device=x.device), group).tolist()
    padded = x.new_zeros(max(1, *counts))
    padded[: len(x)] = x
    gathered = gather_rows(padded, group).view(len(counts), -1)
    return [part[:count].tolist() for part, count in zip(gathered, counts, strict=True)]


def bit_checksum(x: Tensor) -> Int64[Tensor, ""]:
    """Sum the bits of a tensor, read as integers: any single flipped bit changes the sum."""
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.detach().reshape(-1).view(words).sum(dtype=torch.int64)


@torch.no_grad()
def check_same_weights(module: nn.Module, step: int, group: Group = None) -> None:
    """Raise RanksDiverged on every rank if a parameter differs between ranks; the message names the first one.

    Detects a model that was never wrapped, a rank restored from another checkpoint, and a rank that missed a reduction.
    Reads the weights once and all-reduces 16 bytes for each parameter.
    """
    if world_size(group) == 1:
        return
    names, tensors = zip(*module.named_parameters(), strict=True)
    sums = torch.stack([bit_checksum(x) for x in tensors])
    sums = torch.cat([sums, sums.new_tensor([step])])
    extremes = torch.cat([sums, -sums])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = extremes[: len(sums)], -extremes[len(sums) :]
    differing = (largest != smallest).nonzero().flatten().tolist()
    if differing:
        raise RanksDiverged(_divergence_message(step, [(*names, "(step)")[i] for i in differing], len(names)))


def _divergence_message(step: int, differing: list[str], count: int) -> str:
    if differing == ["(step)"]:
        return f"step {step}: ranks are at different steps; restore all of them from the same checkpoint"
    return (
        f"step {step}: {len(differing)} of {count} parameters differ between ranks, first {differing[0]!r}; "
        "the ranks were not synchronised (wrap the objective with DistributedDataParallel on all of them, "
        "restore all of them from the same checkpoint)"
    )
