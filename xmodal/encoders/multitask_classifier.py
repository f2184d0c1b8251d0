"""A batch in, the class scores of several tasks out: one encoder shared by all, and a linear classifier for each."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.multimodal_classifier import Intake
from xmodal.errors import ConfigError


class SharedEncoder(nn.Module):
    """Rows of a batch in, one feature vector [B, W] each out: what the backbone pools."""

    def __init__(self, intake: Intake, backbone: Any) -> None:
        super().__init__()
        self.intake, self.backbone = intake, backbone

    def forward(self, batch: Batch) -> Float[Tensor, "B W"]:
        return self.backbone(**self.intake(batch)).pooler_output


class TaskClassifier(nn.Module):
    """`encoder` gives features of width `width`; `heads[task]` tells one of `classes[task]` classes from them."""

    def __init__(self, encoder: SharedEncoder, *, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        if not classes or min(classes.values()) < 2:
            raise ConfigError(f"classes={dict(classes)}: give at least one task, each with two classes or more")
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: nn.Linear(width, count) for task, count in classes.items()})

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.heads)

    @torch.no_grad()
    def scores(self, batch: Batch) -> dict[str, Float[Tensor, "B C"]]:
        """Class scores of each task, float32, for evaluation."""
        features = self.encoder(batch)
        return {task: head(features).float() for task, head in self.heads.items()}
