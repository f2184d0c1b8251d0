"""A state and its batch in, what both gradient spaces would decide for it out; the step behind it cannot tell.

Training decides in one space. An audit takes the decision of both on the same batch, by a forward of its own, and
applies neither: `.grad`, buffers, random generators and the splitter's decision stay, so that the weights of a run
are, bit for bit, those of a run without.
"""

import torch
from torch import Tensor

from xmodal.batch import Batch
from xmodal.gradients import Auditor
from xmodal.training.engine.accumulation import by_chunk, kept_buffers
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import pull_back
from xmodal.training.objectives.classification import ClassificationObjective


class Audit:
    """Call it before each step, on all ranks: figures on the device every so many steps, and none otherwise.

    An audit costs a forward and a backward for each objective (with `rows_per_forward` one more forward), and holds
    the encoders' gradients of each objective meanwhile.
    """

    def __init__(self, objective: ClassificationObjective, auditor: Auditor, *, every: int) -> None:
        self.objective, self.auditor, self.every = objective, auditor, every

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, Tensor]:
        """Scalars named audit/ENCODER/WHAT, alike on all ranks: see `Agreement.figures`."""
        if (state.step + 1) % self.every:  # so that the line of step n has the audit of step n
            return {}
        chunks = list(batch.chunks(state.rows_per_forward or len(batch)))
        with kept_buffers(self.objective), torch.enable_grad():
            sides = by_chunk(state, batch, chunks)[1] if len(chunks) > 1 else [None]
            for i, (chunk, side) in enumerate(zip(chunks, sides, strict=True)):
                with state.randomness(chunk=i), state.autocast():
                    tokens, masks = self.objective.model.encode(chunk)
                    scores = self.objective.score(tokens, masks)
                losses = (
                    self.objective.loss(scores, batch).by_objective
                    if side is None
                    else [pull_back(scores, {}, rows) for rows in side]
                )
                self.auditor.add(losses, tokens)
        return dict(self.auditor.agreement().figures())
