"""Compares what gradient weighting at the features and in parameter space would decide, without changing training.

Training weights gradients in one of the two spaces. An audit computes the decision of both on the same batch, by a
forward of its own, and applies neither: `.grad`, buffers, random generators and the splitter's decision stay as they
are, so the weights of a run are bit-identical to those of a run without audits.
"""

import torch
from torch import Tensor

from xmodal.batch import Batch
from xmodal.gradients import Auditor
from xmodal.training.engine.accumulation import gradients_by_chunk, preserved_buffers
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import surrogate_loss
from xmodal.training.objectives.classification import ClassificationObjective


class Audit:
    """An audit every `every` steps; call it before each step on all ranks.

    An audit costs a forward and one backward for each objective (with `rows_per_forward` one more forward), and the
    memory of the encoders' gradients of each objective.
    """

    def __init__(self, objective: ClassificationObjective, auditor: Auditor, *, every: int) -> None:
        self.objective, self.auditor, self.every = objective, auditor, every

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, Tensor]:
        """Return scalars named audit/ENCODER/METRIC, the same on all ranks; none between audits.

        See `AuditResult.metrics`.
        """
        if (state.step + 1) % self.every:  # so that the line of step n has the audit of step n
            return {}
        chunks = list(batch.chunks(state.rows_per_forward or len(batch)))
        with preserved_buffers(self.objective), torch.enable_grad():
            gradients = gradients_by_chunk(state, batch, chunks)[1] if len(chunks) > 1 else [None]
            for i, (chunk, chunk_gradients) in enumerate(zip(chunks, gradients, strict=True)):
                with state.randomness(chunk=i), state.autocast():
                    tokens, masks = self.objective.model.encode(chunk)
                    scores = self.objective.score(tokens, masks)
                losses = (
                    self.objective.loss(scores, batch).by_objective
                    if chunk_gradients is None
                    else [surrogate_loss(scores, {}, of_loss) for of_loss in chunk_gradients]
                )
                self.auditor.add(losses, tokens)
        return dict(self.auditor.result().metrics())
