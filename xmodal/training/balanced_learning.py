"""Builds what a method of balanced multimodal learning needs: the objective, the gradient space and the audit."""

from typing import Any

import torch.distributed as dist

from xmodal.distributed.ranks import world_size
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.encoders.multitask_classifier import MultitaskClassifier
from xmodal.errors import ConfigError
from xmodal.gradients import (
    Auditor,
    FeatureSplitter,
    MMParetoPerTensor,
    ParameterSpace,
    Partition,
    Weighting,
    weighting,
)
from xmodal.training.balance_options import RESCALED, GradientBalance
from xmodal.training.engine.auditing import Audit
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.classification import ClassificationObjective
from xmodal.training.objectives.multitask import TaskObjective


def build_objective(
    balance: GradientBalance,
    model: MultimodalClassifier,
    alignment_points: AlignmentPoints | None = None,
) -> tuple[ClassificationObjective, ParameterSpace | None]:
    """Return the objective of a multimodal classifier, and the parameter space if gradients are weighted there.

    If gradients are weighted at the features, the objective has a splitter and there is no space. `alignment_points`
    are for batches with rows of a target domain; the gradients of their domain losses do not affect the weighting.
    All ranks must call it with the same arguments, because the splitter creates a process group of its own.
    """
    if balance.method == "joint":
        return ClassificationObjective(model, unimodal=False, alignment_points=alignment_points), None
    rule = _rule(balance)
    if balance.space == "parameters":
        objective = ClassificationObjective(model, alignment_points=alignment_points)
        return objective, ParameterSpace(Partition.from_module(objective, model.encoders), rule)
    return ClassificationObjective(model, splitter=_splitter(rule, 2), alignment_points=alignment_points), None


def build_task_objective(
    balance: GradientBalance, model: MultitaskClassifier
) -> tuple[TaskObjective, ParameterSpace | None]:
    """Return the objective of K tasks on one shared encoder, and the parameter space if gradients are weighted there.

    Raises ConfigError for a method that distinguishes multimodal from unimodal losses.
    """
    if balance.method in ("joint", "stop_gradient"):
        raise ConfigError(f"{balance.method} needs multimodal and unimodal losses; tasks have neither: use uniform")
    rule, objectives = _rule(balance), len(model.tasks)
    if balance.space == "parameters":
        objective = TaskObjective(model)
        partition = Partition.from_module(objective, {"shared": model.encoder})
        return objective, ParameterSpace(partition, rule, objectives=objectives)
    return TaskObjective(model, splitter=_splitter(rule, objectives)), None


def build_embedding_splitter(balance: GradientBalance) -> FeatureSplitter:
    """Return the splitter that weights the contrastive loss and the encoders' own losses at their embeddings."""
    return _splitter(_rule(balance), 2)


def build_audit(balance: GradientBalance, objective: ClassificationObjective) -> Audit | None:
    """Return the audit that compares both spaces every `audit_every` steps, or None if `audit_every` is 0."""
    if not balance.audit_every:
        return None
    partition = Partition.from_module(objective, objective.model.encoders)
    auditor = Auditor(partition, _rule(balance), splitter=objective.splitter)
    return Audit(objective, auditor, every=balance.audit_every)


def _rule(balance: GradientBalance) -> Weighting | MMParetoPerTensor:
    options: dict[str, Any] = {"rescale": balance.rescale} if balance.method in RESCALED else {}
    if balance.gamma is not None:
        options["gamma"] = balance.gamma
    return weighting(balance.method, **options)


def _splitter(rule: Weighting | MMParetoPerTensor, objectives: int) -> FeatureSplitter:
    return FeatureSplitter(rule, objectives=objectives, group=dist.new_group() if world_size() > 1 else None)
