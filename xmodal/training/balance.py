"""A method of balanced multimodal learning and a classifier in; its objective and its gradient space out."""

from typing import Any

import torch.distributed as dist

from xmodal.encoders.multimodal import MultimodalClassifier
from xmodal.gradients import FeatureSplitter, ParameterSpace, Partition, weighting
from xmodal.losses.ranks import Group, world_size
from xmodal.training.classification import ClassificationObjective
from xmodal.training.method import RESCALED, Balance


def balanced(
    balance: Balance, model: MultimodalClassifier, group: Group = None
) -> tuple[ClassificationObjective, ParameterSpace | None]:
    """The objective, with its splitter where the decision is at the features, else with the parameter space.

    On several ranks all of them must call it alike: the splitter gets a process group of its own.
    """
    if balance.method == "joint":
        return ClassificationObjective(model, unimodal=False, group=group), None
    options: dict[str, Any] = {"rescale": balance.rescale} if balance.method in RESCALED else {}
    if balance.gamma is not None:
        options["gamma"] = balance.gamma
    rule = weighting(balance.method, **options)
    if balance.space == "parameters":
        objective = ClassificationObjective(model, group=group)
        return objective, ParameterSpace(Partition.of(objective, model.encoders), rule, group=group)
    own = dist.new_group() if group is None and world_size() > 1 else group
    return ClassificationObjective(model, splitter=FeatureSplitter(rule, group=own), group=group), None
