"""Multi-task classification on one shared encoder: the cross-entropy of each task over the rows of all ranks."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.ranks import world_size
from xmodal.encoders.multitask_classifier import MultitaskClassifier
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter
from xmodal.training.objective import EmbeddingGradients, Embeddings, Losses, Objective, surrogate_loss
from xmodal.training.objectives.label_predictor import sum_cross_entropy


def label_field(task: str) -> str:
    """Return the name of the batch field with the classes of a task: int64 [B], -1 for a row without a class.

    >>> label_field("left")
    'left_label'
    """
    return f"{task}_label"


class TaskObjective(Objective):
    """The cross-entropy of each task; every task is an objective of its own (Sener & Koltun 2018).

    With a `splitter` of as many objectives the tasks' gradients are weighted at the features; without one they are
    summed, or weighted by the `space` of the training state. `only` selects the tasks to train; the heads of the other
    tasks are frozen.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        *,
        only: Sequence[str] | None = None,
        splitter: FeatureSplitter | None = None,
    ) -> None:
        super().__init__()
        self.tasks = model.tasks if only is None else tuple(only)
        for task in self.tasks:
            if task not in model.tasks:
                raise ConfigError(f"no task {task!r}; {nearest(task, model.tasks)}")
        if splitter is not None and splitter.objectives != len(self.tasks):
            raise ConfigError(f"the splitter has {splitter.objectives} objectives for {len(self.tasks)} tasks")
        self.model, self.splitter = model, splitter
        for task in set(model.tasks) - set(self.tasks):
            model.heads[task].requires_grad_(False)  # not used in the loss: DDP would wait for their gradients
        self._accuracy: dict[str, Float[Tensor, ""]] = {}

    def forward(self, batch: Batch, embedding_gradients: EmbeddingGradients | None = None) -> Losses:
        scores = self.embed(batch)
        if embedding_gradients is not None:
            return Losses(surrogate_loss(scores, {}, embedding_gradients))
        return self.loss(scores, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """Return the class scores [B, C] of each task."""
        features = {"shared": self.model.encoder(batch)}
        copies = [features] * len(self.tasks) if self.splitter is None else self.splitter(features)
        pairs = zip(self.tasks, copies, strict=True)
        return {task: self.model.heads[task](task_features["shared"]).float() for task, task_features in pairs}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """Return this rank's share of each task's mean over the rows of all ranks that have a class of that task."""
        labels = {task: batch.fields[label_field(task)] for task in self.tasks}
        counted = {task: batch.valid & (label >= 0) for task, label in labels.items()}
        hits = [((embeddings[t].detach().argmax(1) == labels[t]) & counted[t]).sum() for t in self.tasks]
        counts = torch.stack([*(rows.sum() for rows in counted.values()), *hits]).double()
        if (world := world_size()) > 1:
            dist.all_reduce(counts)
        number = counts[: len(self.tasks)].clamp(min=1)
        self._accuracy = dict(zip(self.tasks, counts[len(self.tasks) :] / number, strict=True))
        share = (world / number).float()
        sums = {task: sum_cross_entropy(embeddings[task], labels[task], counted[task]) for task in self.tasks}
        return Losses(tasks={task: share[k] * total for k, (task, total) in enumerate(sums.items())})

    def loss_parameters(self) -> dict[str, nn.Parameter]:
        return {}

    def clamp_(self) -> Bool[Tensor, ""]:
        """Return false: no parameter has a range."""
        return torch.zeros((), dtype=torch.bool, device=next(self.model.parameters()).device)

    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return the accuracy of each task on the last batch, and the splitter's decision."""
        values = {f"{name}/accuracy": x for name, x in self._accuracy.items()}
        if self.splitter is not None and self.splitter.decision is not None:
            values |= self.splitter.decision.metrics()
        return values
