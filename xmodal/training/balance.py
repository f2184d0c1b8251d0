"""The name of a method of balanced multimodal learning in; a classifier's objective and its gradient space out."""

from dataclasses import dataclass
from typing import Literal

import torch.distributed as dist

from xmodal.encoders.multimodal import MultimodalClassifier
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import FeatureSplitter, ParameterSpace, Partition, weighting
from xmodal.gradients.weightings import GAMMA, RESCALE, WEIGHTINGS
from xmodal.losses.ranks import Group, world_size
from xmodal.training.classification import ClassificationObjective

RESCALED = ("mmpareto", "mmpareto_continuous")
METHODS = ("joint", *WEIGHTINGS)


@dataclass(frozen=True, kw_only=True)
class Balance:
    """How the multimodal and the unimodal losses meet in each encoder.

    `joint` leaves the unimodal losses out. The others are the weightings of `xmodal.gradients`: `uniform` adds all
    losses up, `mmpareto` is Wei & Hu 2024, `stop_gradient` lets encoders learn from their unimodal loss alone.
    """

    method: str = "mmpareto"
    space: Literal["features", "parameters"] = "features"  # where conflict is measured; features cost next to nothing
    gamma: float | None = None  # length of the step beside the sum's; None: 1.5 for mmpareto, 1 for uniform
    rescale: tuple[float, float] = RESCALE  # limits of mmpareto's factor on the length of the min-norm direction

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"unknown method {self.method!r}; {nearest(self.method, METHODS)}")
        if self.method == "mmpareto_per_tensor" and self.space == "features":
            raise ConfigError("mmpareto_per_tensor weighs parameter tensors: it needs space=parameters")
        takes = (*RESCALED, "mmpareto_per_tensor", "uniform")
        if self.gamma is not None and self.method not in takes:
            raise ConfigError(f"{self.method} has no gamma; {', '.join(takes)} have one")
        weighting("mmpareto", gamma=GAMMA if self.gamma is None else self.gamma, rescale=self.rescale)

    def build(
        self, model: MultimodalClassifier, group: Group = None
    ) -> tuple[ClassificationObjective, ParameterSpace | None]:
        """The objective, with its splitter where the decision is at the features, else with the parameter space.

        On several ranks all of them must call it alike: the splitter gets a process group of its own.
        """
        if self.method == "joint":
            return ClassificationObjective(model, unimodal=False, group=group), None
        options = {"rescale": self.rescale} if self.method in RESCALED else {}
        rule = weighting(self.method, **options, **({} if self.gamma is None else {"gamma": self.gamma}))
        if self.space == "parameters":
            objective = ClassificationObjective(model, group=group)
            return objective, ParameterSpace(Partition.of(objective, model.encoders), rule, group=group)
        own = dist.new_group() if group is None and world_size() > 1 else group
        return ClassificationObjective(model, splitter=FeatureSplitter(rule, group=own), group=group), None
