"""A state in the middle of its training in; a region in which its model evaluates, and a state as it was before out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from xmodal.distributed.ranks import Group, world_size
from xmodal.training.engine.accumulation import copy_buffers, restore_buffers
from xmodal.training.engine.randomness import repeatable
from xmodal.training.engine.state import TrainState


@contextmanager
def evaluating(state: TrainState) -> Iterator[None]:
    """No gradients, evaluation mode, and rank 0's running statistics on all ranks, as a checkpoint would hold them.

    All ranks enter together. What trains afterwards cannot tell that anything happened: modes of single modules,
    buffers and random generators are as they were.
    """
    modes = {module: module.training for module in state.objective.modules()}
    kept = copy_buffers(state.objective)
    state.objective.eval()
    try:
        with torch.no_grad(), repeatable(state.device, state.seed, state.step), state.autocast():
            _take_from_first(state.objective, state.group)
            yield
    finally:
        restore_buffers(state.objective, kept)
        for module, mode in modes.items():
            module.training = mode


def _take_from_first(module: torch.nn.Module, group: Group) -> None:
    """Between two steps the ranks' running statistics differ; DDP brings them together only at the next forward."""
    if world_size(group) > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, group_src=0, group=group)
