"""Evaluation in the middle of training, which leaves the training state exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xmodal.distributed.synchrony import broadcast_buffers
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
        broadcast_buffers(state.objective)  # between steps they differ: DDP only does this in a forward
        yield
