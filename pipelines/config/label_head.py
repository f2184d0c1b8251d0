"""A label predictor beside a contrastive loss: where the source says a row's class, and what its loss weighs."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Label:
    """Classes of source rows, where they have one; none of the target's is ever read."""

    field: Annotated[str | None, tyro.conf.arg(name="label.field")] = None
    """where a row of the source has its class, e.g. cls or json:label; rows without one count as pairs alone"""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(name="label.classes")] = ()
    """their names in the order of their numbers, or one file of them, one a line"""
    weight: Annotated[float, tyro.conf.arg(name="label.weight")] = 1.0
    """of the cross-entropy of a linear head on the embeddings, beside the contrastive loss"""
    modality: Annotated[str | None, tyro.conf.arg(name="label.modality")] = None
    """whose embeddings the head reads; None: the first, e.g. image"""

    def __post_init__(self) -> None:
        if self.field is None and (self.classes or self.modality or self.weight != 1.0):
            raise ConfigError("--label.classes, .weight and .modality need --label.field: where a row's class is")
        if self.field is not None and not self.classes:
            raise ConfigError("--label.field needs --label.classes: the names of the classes, or a file of them")
        if not 0 < self.weight < math.inf:
            raise ConfigError(f"label.weight={self.weight} must be positive and finite: without a label leave it out")
        if self.modality == "text":
            raise ConfigError("label.modality=text: a caption says its class itself; name image, video or audio")
