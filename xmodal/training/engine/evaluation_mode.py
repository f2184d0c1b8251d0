"""Evaluation in the middle of training, which leaves the training state exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from xmodal.distributed.ranks import Group, world_size
from xmodal.encoders.eval_mode import eval_mode
from xmodal.training.engine.accumulation import preserved_buffers
from xmodal.training.engine.randomness import seeded_rng
from xmodal.training.engine.state import TrainState


@contextmanager
def evaluation_mode(state: TrainState) -> Iterator[None]:
    """Evaluate without gradients, with rank 0's running statistics on all ranks, as a checkpoint would have them.

    All ranks must enter together. Afterwards the modes of all modules, the buffers and the random generators are
    restored, so that training continues as if nothing had happened.
    """
    with (
        eval_mode(state.objective),
        preserved_buffers(state.objective),
        torch.no_grad(),
        seeded_rng(state.device, state.seed, state.step),
        state.autocast(),
    ):
        _broadcast_buffers(state.objective, state.group)
        yield


def _broadcast_buffers(module: torch.nn.Module, group: Group) -> None:
    """Copy rank 0's running statistics to all ranks: between steps they differ, and DDP syncs them in a forward."""
    if world_size(group) > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, group_src=0, group=group)
