"""One modality of a batch in, features in the shared space out: intake, backbone, pooling, linear head."""

import json
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from xmodal.batch import Batch
from xmodal.encoders.input_fields import Intake, intake_of
from xmodal.encoders.pooling import Pooling, pool


class Tower(nn.Module):
    """`projection(pool(backbone(intake(batch))))`, not normalised; the features of a clip's frames stand side by side.

    The backbone is any transformers model with `last_hidden_state` or `pooler_output`; alone it is saved and loaded
    by its own `save_pretrained` and `AutoModel`.
    """

    intake: Any  # an Intake; which attributes it has depends on its kind

    def __init__(self, intake: Intake, backbone: PreTrainedModel, projection: nn.Linear, *, pooling: Pooling) -> None:
        super().__init__()
        self.intake, self.backbone, self.projection, self.pooling = intake, backbone, projection, pooling
        if pooling != "pooler" and getattr(backbone, "pooler", None) is not None:
            # An unused head would make DDP wait for its gradients.
            backbone.pooler = None  # type: ignore[assignment]

    @classmethod
    def with_head(cls, intake: Intake, backbone: PreTrainedModel, dim: int, *, pooling: Pooling, bias: bool) -> "Tower":
        """A tower with a new head. Its rows start orthogonal in expectation, of the features' own scale."""
        width = width_of(backbone.config) * intake.parts
        projection = nn.Linear(width, dim, bias=bias)
        nn.init.normal_(projection.weight, std=width**-0.5)
        if bias:
            nn.init.zeros_(projection.bias)
        return cls(intake, backbone, projection, pooling=pooling)

    def forward(self, batch: Batch) -> Float[Tensor, "B D"]:
        if self.intake.parts == 1:
            return self.features(self.intake(batch))
        pooled = self._pooled(self.intake(batch))
        there = self.intake.present(batch)
        return self.projection((pooled.unflatten(0, there.shape) * there[:, :, None]).flatten(1))

    def features(self, inputs: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        """What the intake gives, encoded; where a reader of another library has prepared the inputs itself."""
        return self.projection(self._pooled(inputs))

    def _pooled(self, inputs: dict[str, Tensor]) -> Float[Tensor, "R W"]:
        return pool(self.backbone(**inputs), self.pooling, inputs.get("attention_mask"))

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON; `tower_of` builds it again."""
        return {
            "intake": self.intake.describe(),
            "backbone": described(self.backbone.config),
            "pooling": self.pooling,
            "dim": self.projection.out_features,
            "bias": self.projection.bias is not None,
        }


def tower_of(description: dict[str, Any]) -> Tower:
    """The tower that `Tower.describe` described, with new weights."""
    backbone = AutoModel.from_config(AutoConfig.for_model(**description["backbone"]))
    return Tower.with_head(
        intake_of(description["intake"]),
        backbone,
        description["dim"],
        pooling=description["pooling"],
        bias=description["bias"],
    )


def width_of(config: PreTrainedConfig) -> int:
    """The width of a backbone's features: what it says itself, else `hidden_size`, or that of its last stage."""
    if (own := getattr(config, "feature_size", None)) is not None:
        return own
    stages = getattr(config, "hidden_sizes", None)
    return stages[-1] if stages else config.hidden_size


def described(config: PreTrainedConfig) -> dict[str, Any]:
    """What this kind of model adds to the fields of every configuration, which say nothing about its shape."""
    shared = PreTrainedConfig().to_dict().keys() - {"model_type"}
    own = {name: value for name, value in config.to_dict().items() if name not in shared}
    return json.loads(json.dumps(own))  # as a reader will find it: lists for tuples


def freeze_unused(tower: Tower) -> list[str]:
    """Freeze the parameters that the features do not depend on, and name them.

    A checkpoint from the Hub may bring heads or mask tokens that one embedding never uses; DDP would wait for their
    gradients forever. Found by one backward pass on one row.
    """
    fields = tower.intake.example(next(tower.parameters()).device)
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
