"""Towers: an input adapter, a backbone, pooling and a linear head that embed one modality in the shared space."""

import json
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from xmodal.batch import Batch
from xmodal.encoders.input_fields import build_input_adapter
from xmodal.encoders.inputs import InputAdapter
from xmodal.encoders.pooling import Pooling, pool


class Tower(nn.Module):
    """Computes `projection(pool(backbone(input_adapter(batch))))`, not normalised.

    The features of a clip's frames are concatenated before the projection. The backbone is any transformers model with
    `last_hidden_state` or `pooler_output`; alone it is saved and loaded by its own `save_pretrained` and `AutoModel`.
    """

    input_adapter: Any  # an InputAdapter; its attributes depend on its kind

    def __init__(
        self, input_adapter: InputAdapter, backbone: PreTrainedModel, projection: nn.Linear, *, pooling: Pooling
    ) -> None:
        super().__init__()
        self.input_adapter, self.backbone, self.projection, self.pooling = input_adapter, backbone, projection, pooling
        if pooling != "pooler" and getattr(backbone, "pooler", None) is not None:
            # DDP would wait for the gradients of an unused head.
            backbone.pooler = None  # type: ignore[assignment]

    @classmethod
    def with_head(
        cls, input_adapter: InputAdapter, backbone: PreTrainedModel, dim: int, *, pooling: Pooling, bias: bool
    ) -> "Tower":
        """Build a tower with a new head; its rows are orthogonal in expectation and have the scale of the features."""
        width = feature_width(backbone.config) * input_adapter.rows_per_sample
        projection = nn.Linear(width, dim, bias=bias)
        nn.init.normal_(projection.weight, std=width**-0.5)
        if bias:
            nn.init.zeros_(projection.bias)
        return cls(input_adapter, backbone, projection, pooling=pooling)

    def forward(self, batch: Batch) -> Float[Tensor, "B D"]:
        """Return the features of a batch."""
        if self.input_adapter.rows_per_sample == 1:
            return self.features(self.input_adapter(batch))
        pooled = self._pooled(self.input_adapter(batch))
        present = self.input_adapter.mask(batch)
        frames = torch.unflatten(pooled, 0, present.shape) * present[:, :, None]
        return cast(Tensor, self.projection(frames.flatten(1)))

    def features(self, inputs: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        """Return the features of inputs that the input adapter, or a reader of another library, has prepared."""
        return cast(Tensor, self.projection(self._pooled(inputs)))

    def _pooled(self, inputs: dict[str, Tensor]) -> Float[Tensor, "R W"]:
        return pool(self.backbone(**inputs), self.pooling, inputs.get("attention_mask"))

    def describe(self) -> dict[str, object]:
        """Return everything but the weights, as JSON; `build_tower` builds it again."""
        return {
            "intake": self.input_adapter.describe(),
            "backbone": describe_config(self.backbone.config),
            "pooling": self.pooling,
            "dim": self.projection.out_features,
            "bias": self.projection.bias is not None,
        }


def build_tower(description: dict[str, Any]) -> Tower:
    """Build the tower that `Tower.describe` described, with new weights."""
    backbone = AutoModel.from_config(AutoConfig.for_model(**description["backbone"]))
    return Tower.with_head(
        build_input_adapter(description["intake"]),
        backbone,
        description["dim"],
        pooling=description["pooling"],
        bias=description["bias"],
    )


def feature_width(config: PreTrainedConfig) -> int:
    """Return the width of a backbone's features: `feature_size`, else that of the last stage, else `hidden_size`."""
    width: int | None = getattr(config, "feature_size", None)
    if width is not None:
        return width
    stages = getattr(config, "hidden_sizes", None)
    last: int = stages[-1] if stages else config.hidden_size
    return last


def describe_config(config: PreTrainedConfig) -> dict[str, object]:
    """Return what this kind of model adds to the fields that every configuration has, as JSON."""
    shared = PreTrainedConfig().to_dict().keys() - {"model_type"}
    specific = {name: value for name, value in config.to_dict().items() if name not in shared}
    description: dict[str, Any] = json.loads(json.dumps(specific))  # tuples become lists, as for a reader
    return description


def freeze_unused_parameters(tower: Tower) -> list[str]:
    """Freeze the parameters that the features do not depend on, and return their names.

    A checkpoint from the Hub may contain heads or mask tokens that one embedding never uses; DDP would wait for their
    gradients forever. They are found by one backward pass on one row.
    """
    fields = tower.input_adapter.example_fields(next(tower.parameters()).device)
    training = tower.training
    tower.eval()  # batch statistics stay untouched
    batch = Batch(row=torch.zeros(1, dtype=torch.int64), valid=torch.ones(1, dtype=torch.bool), fields=fields)
    tower(batch).sum().backward()
    unused = [(name, p) for name, p in tower.named_parameters() if p.grad is None]
    for _, parameter in unused:
        parameter.requires_grad_(False)
    tower.zero_grad(set_to_none=True)
    tower.train(training)
    return [name for name, _ in unused]
