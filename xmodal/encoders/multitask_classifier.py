"""The multitask classifier: one encoder shared by several tasks, and a linear classifier for each."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.multimodal_classifier import EncoderInput
from xmodal.errors import ConfigError


class SharedEncoder(nn.Module):
    """Maps rows of a batch to one feature vector each [B, W]: what the backbone pools."""

    def __init__(self, input_adapter: EncoderInput, backbone: Any) -> None:
        super().__init__()
        self.input_adapter, self.backbone = input_adapter, backbone

    def forward(self, batch: Batch) -> Float[Tensor, "B W"]:
        """Return the feature vectors."""
        features: Tensor = self.backbone(**self.input_adapter(batch)).pooler_output
        return features


class MultitaskClassifier(nn.Module):
    """`encoder` computes features of width `width`; `heads[task]` scores `classes[task]` classes from them."""

    def __init__(self, encoder: SharedEncoder, *, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        if not classes or min(classes.values()) < 2:
            raise ConfigError(f"classes={dict(classes)}: give at least one task, each with two classes or more")
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: nn.Linear(width, count) for task, count in classes.items()})

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the names of the tasks."""
        return tuple(self.heads)

    @torch.no_grad()
    def scores(self, batch: Batch) -> dict[str, Float[Tensor, "B C"]]:
        """Return class scores of each task, float32, for evaluation."""
        features = self.encoder(batch)
        return {task: head(features).float() for task, head in self.heads.items()}
