"""Build the objective, scores and features of an arm for a classifier of several modalities or of several tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.reproduce.arms import BalanceArm
from xmodal.batch import Batch
from xmodal.encoders.fusion import mean_of_tokens
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.encoders.multitask_classifier import MultitaskClassifier
from xmodal.gradients import ParameterSpace
from xmodal.training.balanced_learning import build_objective, build_task_objective
from xmodal.training.objectives.classification import ClassificationObjective
from xmodal.training.objectives.multitask import TaskObjective, label_field

Scores = dict[str, Tensor]
LABEL_FIELD = "label"


@dataclass(frozen=True, eq=False)
class ExperimentModel:
    """A model in an experiment: its training objective, and what evaluates it.

    `scores(batch)` returns class scores [B, C] by name. `features(batch)` returns the input [B, W] of the linear head
    of each modality or task. `labels[name]` is the field with the classes of a score or a feature.
    """

    objective: ClassificationObjective | TaskObjective
    space: ParameterSpace | None
    encoders: Mapping[str, nn.Module]
    scores: Callable[[Batch], Scores]
    features: Callable[[Batch], Scores]
    labels: Mapping[str, str]


def modality_model(arm: BalanceArm, model: MultimodalClassifier) -> ExperimentModel:
    """Return the model of several modalities that an arm trains.

    Its scores are `multimodal`, those of each modality's own head, and `ensemble`, the mean of the heads'
    probabilities. The joint arm does not train the heads and has `multimodal` alone.
    """
    objective, space = build_objective(arm.balance, model)
    names = model.modalities
    with_heads = arm.balance.method != "joint"

    def scores(batch: Batch) -> Scores:
        class_scores = model.scores(batch)
        if not with_heads:
            return {"multimodal": class_scores["multimodal"]}
        return {**class_scores, "ensemble": torch.stack([F.softmax(class_scores[name], 1) for name in names]).mean(0)}

    def features(batch: Batch) -> Scores:
        tokens, masks = model.encode(batch)
        return {name: mean_of_tokens(tokens[name], masks[name]) for name in names}

    labels = dict.fromkeys(["multimodal", *names, "ensemble"], LABEL_FIELD)
    return ExperimentModel(objective, space, dict(model.encoders), scores, features, labels)


def task_model(arm: BalanceArm, model: MultitaskClassifier) -> ExperimentModel:
    """Return the model of several tasks that an arm trains, with a score for each trained task.

    An arm with `only_task` trains that task alone.
    """
    if arm.only_task is not None:
        objective, space = TaskObjective(model, only=[arm.only_task]), None
    else:
        objective, space = build_task_objective(arm.balance, model)

    def scores(batch: Batch) -> Scores:
        class_scores = model.scores(batch)
        return {task: class_scores[task] for task in objective.tasks}

    def features(batch: Batch) -> Scores:
        return dict.fromkeys(model.tasks, model.encoder(batch))

    labels = {task: label_field(task) for task in model.tasks}
    return ExperimentModel(objective, space, {"shared": model.encoder}, scores, features, labels)
