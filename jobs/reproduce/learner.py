"""An arm and a model in; what is trained, and what judges it, out: classifiers of modalities, or of tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.reproduce.arms import Arm
from xmodal.batch import Batch
from xmodal.encoders.fusion import mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.encoders.multitask_classifier import TaskClassifier
from xmodal.gradients import ParameterSpace
from xmodal.training.balanced_learning import balanced, balanced_tasks
from xmodal.training.objectives.classification import ClassificationObjective
from xmodal.training.objectives.multitask import TaskObjective, label_of

Scores = dict[str, Tensor]
LABEL = "label"


@dataclass(frozen=True, eq=False)
class Subject:
    """`scores(batch)`: class scores [B, C] by name; `features(batch)`: what the linear head of each modality or task
    reads, [B, W]; `labels[name]`: the field with the classes of a score or a feature."""

    objective: ClassificationObjective | TaskObjective
    space: ParameterSpace | None
    encoders: Mapping[str, nn.Module]
    scores: Callable[[Batch], Scores]
    features: Callable[[Batch], Scores]
    labels: Mapping[str, str]


def of_modalities(arm: Arm, model: MultimodalClassifier) -> Subject:
    """Scores: `multimodal`, and but for the joint arm (which leaves its heads as they were drawn) those of each
    modality's own head, and `ensemble`, the mean of their probabilities."""
    objective, space = balanced(arm.balance, model)
    names = model.modalities
    with_heads = arm.balance.method != "joint"

    def scores(batch: Batch) -> Scores:
        found = model.scores(batch)
        if not with_heads:
            return {"multimodal": found["multimodal"]}
        return {**found, "ensemble": torch.stack([F.softmax(found[name], 1) for name in names]).mean(0)}

    def features(batch: Batch) -> Scores:
        tokens, masks = model.encode(batch)
        return {name: mean_of_tokens(tokens[name], masks[name]) for name in names}

    labels = dict.fromkeys(["multimodal", *names, "ensemble"], LABEL)
    return Subject(objective, space, dict(model.encoders), scores, features, labels)


def of_tasks(arm: Arm, model: TaskClassifier) -> Subject:
    """Scores: those of each task that is trained. An arm with `only` trains that task alone."""
    if arm.only is not None:
        objective, space = TaskObjective(model, only=[arm.only]), None
    else:
        objective, space = balanced_tasks(arm.balance, model)

    def scores(batch: Batch) -> Scores:
        found = model.scores(batch)
        return {task: found[task] for task in objective.tasks}

    def features(batch: Batch) -> Scores:
        return dict.fromkeys(model.tasks, model.encoder(batch))

    labels = {task: label_of(task) for task in model.tasks}
    return Subject(objective, space, {"shared": model.encoder}, scores, features, labels)
