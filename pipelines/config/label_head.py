"""Configuration of a classifier on the labels of the source, beside the contrastive loss."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LabelHeadConfig:
    """A linear classifier on the embeddings, trained on labels of source rows; no label of the target is ever read."""

    field: Annotated[str | None, tyro.conf.arg(name="label.field")] = None
    """where a row of the source has its class, e.g. cls or json:label; rows without a class
    count as pairs alone; None: no classifier"""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(name="label.classes")] = ()
    """names of the classes in the order of their numbers, or one file with a name a line"""
    weight: Annotated[float, tyro.conf.arg(name="label.weight")] = 1.0
    """weight of the classifier's cross-entropy beside the contrastive loss, above 0"""
    modality: Annotated[str | None, tyro.conf.arg(name="label.modality")] = None
    """modality whose embeddings are classified; None: the model's first, e.g. image"""

    def __post_init__(self) -> None:
        if self.field is None and (self.classes or self.modality or self.weight != 1.0):
            raise ConfigError("--label.classes, .weight and .modality need --label.field: where a row's class is")
        if self.field is not None and not self.classes:
            raise ConfigError("--label.field needs --label.classes: the names of the classes, or a file of them")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"label.weight={self.weight} must be positive and finite: without a label leave it out")
        if self.modality == "text":
            raise ConfigError("label.modality=text: a caption names its class itself; choose image, video or audio")
