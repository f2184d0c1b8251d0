"""Several classification tasks on one shared encoder: a batch in, the cross-entropy of each task over all ranks out."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.ranks import Group, world_size
from xmodal.encoders.multitask_classifier import TaskClassifier
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter
from xmodal.training.objective import Cotangents, Embeddings, Losses, Objective, pull_back
from xmodal.training.objectives.label_predictor import cross_entropy


def label_of(task: str) -> str:
    """The field with the task's classes, int64 [B]; -1: this row has none."""
    return f"{task}_label"


class TaskObjective(Objective):
    """Cross-entropy of each task's classes; every task is an objective of its own (Sener & Koltun 2018).

    With a `splitter` of as many objectives the features are divided between the tasks and weighed there; without one
    the gradients are summed, or weighed by the state's `space`. `only`: these tasks alone count; the other heads stay
    as they are.
    """

    def __init__(
        self,
        model: TaskClassifier,
        *,
        only: Sequence[str] | None = None,
        splitter: FeatureSplitter | None = None,
        group: Group = None,
    ) -> None:
        super().__init__()
        self.tasks = model.tasks if only is None else tuple(only)
        for task in self.tasks:
            if task not in model.tasks:
                raise ConfigError(f"no task {task!r}; {nearest(task, model.tasks)}")
        if splitter is not None and splitter.objectives != len(self.tasks):
            raise ConfigError(f"the splitter has {splitter.objectives} objectives for {len(self.tasks)} tasks")
        self.model, self.splitter, self.group = model, splitter, group
        for task in set(model.tasks) - set(self.tasks):
            model.heads[task].requires_grad_(False)  # unread, and DDP would wait for their gradients
        self._accuracy: dict[str, Float[Tensor, ""]] = {}

    def forward(self, batch: Batch, cotangents: Cotangents | None = None) -> Losses:
        scores = self.embed(batch)
        if cotangents is not None:
            return Losses(pull_back(scores, {}, cotangents))
        return self.loss(scores, batch)

    def embed(self, batch: Batch) -> Embeddings:
        """The class scores [B, C] of each task: all that the losses read of a row."""
        features = {"shared": self.model.encoder(batch)}
        copies = [features] * len(self.tasks) if self.splitter is None else self.splitter(features)
        pairs = zip(self.tasks, copies, strict=True)
        return {task: self.model.heads[task](own["shared"]).float() for task, own in pairs}

    def loss(self, embeddings: Embeddings, batch: Batch) -> Losses:
        """This rank's shares of the means, each over the rows of all ranks that have a class of that task."""
        labels = {task: batch.fields[label_of(task)] for task in self.tasks}
        counted = {task: batch.valid & (label >= 0) for task, label in labels.items()}
        hits = [((embeddings[t].detach().argmax(1) == labels[t]) & counted[t]).sum() for t in self.tasks]
        counts = torch.stack([*(rows.sum() for rows in counted.values()), *hits]).double()
        if (world := world_size(self.group)) > 1:
            dist.all_reduce(counts, group=self.group)
        number = counts[: len(self.tasks)].clamp(min=1)
        self._accuracy = dict(zip(self.tasks, counts[len(self.tasks) :] / number, strict=True))
        share = (world / number).float()
        sums = {task: cross_entropy(embeddings[task], labels[task], counted[task]) for task in self.tasks}
        return Losses(tasks={task: share[k] * total for k, (task, total) in enumerate(sums.items())})

    def weights(self) -> dict[str, nn.Parameter]:
        return {}

    def clamp_(self) -> Bool[Tensor, ""]:
        """No parameter has a range."""
        return torch.zeros((), dtype=torch.bool, device=next(self.model.parameters()).device)

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Accuracy of each task on the last batch; and what the splitter decided."""
        found = {f"{name}/accuracy": x for name, x in self._accuracy.items()}
        if self.splitter is not None and self.splitter.decision is not None:
            found |= self.splitter.decision.figures()
        return found
