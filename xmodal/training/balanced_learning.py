"""A method of balanced learning and a classifier in; its objective, its gradient space and its audit out."""

from typing import Any

import torch.distributed as dist

from xmodal.distributed.ranks import Group, world_size
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.encoders.multitask_classifier import TaskClassifier
from xmodal.errors import ConfigError
from xmodal.gradients import Auditor, FeatureSplitter, ParameterSpace, Partition, PerTensor, Weighting, weighting
from xmodal.training.balance_options import RESCALED, Balance
from xmodal.training.engine.auditing import Audit
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.classification import ClassificationObjective
from xmodal.training.objectives.multitask import TaskObjective


def balanced(
    balance: Balance, model: MultimodalClassifier, places: Places | None = None, group: Group = None
) -> tuple[ClassificationObjective, ParameterSpace | None]:
    """The objective, with its splitter where the decision is at the features, else with the parameter space.

    With `places` for batches that have rows of a target, whose gradients neither decision sees.
    On several ranks all of them must call it alike: the splitter gets a process group of its own.
    """
    if balance.method == "joint":
        return ClassificationObjective(model, unimodal=False, places=places, group=group), None
    rule = _rule(balance)
    if balance.space == "parameters":
        objective = ClassificationObjective(model, places=places, group=group)
        return objective, ParameterSpace(Partition.of(objective, model.encoders), rule, group=group)
    return ClassificationObjective(model, splitter=_splitter(rule, 2, group), places=places, group=group), None


def balanced_tasks(
    balance: Balance, model: TaskClassifier, group: Group = None
) -> tuple[TaskObjective, ParameterSpace | None]:
    """The same for K tasks on one shared encoder, each an objective; ConfigError for a method that needs modalities."""
    if balance.method in ("joint", "stop_gradient"):
        raise ConfigError(f"{balance.method} tells multimodal from unimodal losses; tasks have neither")
    rule, objectives = _rule(balance), len(model.tasks)
    if balance.space == "parameters":
        objective = TaskObjective(model, group=group)
        partition = Partition.of(objective, {"shared": model.encoder})
        return objective, ParameterSpace(partition, rule, objectives=objectives, group=group)
    return TaskObjective(model, splitter=_splitter(rule, objectives, group), group=group), None


def balanced_encoder(balance: Balance, group: Group = None) -> FeatureSplitter:
    """What weighs a dual encoder's contrastive loss and an encoder's own objective, at its embeddings."""
    return _splitter(_rule(balance), 2, group)


def audited(balance: Balance, objective: ClassificationObjective) -> Audit | None:
    """What compares both spaces' decisions every `audit_every` steps; None where none is asked for."""
    if not balance.audit_every:
        return None
    partition = Partition.of(objective, objective.model.encoders)
    auditor = Auditor(partition, _rule(balance), splitter=objective.splitter, group=objective.group)
    return Audit(objective, auditor, every=balance.audit_every)


def _rule(balance: Balance) -> Weighting | PerTensor:
    options: dict[str, Any] = {"rescale": balance.rescale} if balance.method in RESCALED else {}
    if balance.gamma is not None:
        options["gamma"] = balance.gamma
    return weighting(balance.method, **options)


def _splitter(rule: Weighting | PerTensor, objectives: int, group: Group) -> FeatureSplitter:
    own = dist.new_group() if group is None and world_size() > 1 else group
    return FeatureSplitter(rule, objectives=objectives, group=own)
