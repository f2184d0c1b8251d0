"""A batch in, class scores from all modalities together and from each alone out.

The encoders of the modalities share nothing; what joins them is a fusion and a linear classifier. Each modality has a
linear classifier of its own beside it (unimodal assistance, Wei & Hu 2024, §3.1), which reads that encoder only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.av_inputs import Frames, Spectrogram
from xmodal.encoders.fusion import Masks, Tokens, fusion, mean_of_tokens
from xmodal.encoders.inputs import Pixels
from xmodal.encoders.tower import width_of
from xmodal.errors import ConfigError, nearest

Intake = Pixels | Frames | Spectrogram


class Encoder(nn.Module):
    """One modality of a batch in, its tokens [B, N, W] and where there are any [B, N] out.

    `backbone` is a transformers model whose `last_hidden_state` is [R, W, h, w] or [R, L, W]; of a clip the R rows are
    its frames, whose tokens stand one after the other. One that reads `input_values` (AST) gets the spectrogram as
    [B, L, M].
    """

    def __init__(self, intake: Intake, backbone: Any) -> None:
        super().__init__()
        self.intake, self.backbone = intake, backbone
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # an unused head would make DDP wait for its gradients

    @property
    def width(self) -> int:
        return width_of(self.backbone.config)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B N W"], Bool[Tensor, "B N"]]:
        inputs = self.intake(batch)
        if self.backbone.main_input_name == "input_values":
            inputs = {"input_values": inputs["pixel_values"][:, 0].transpose(1, 2)}
        hidden = self.backbone(**inputs).last_hidden_state
        tokens = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
        there = self.intake.present(batch)
        parts = there.shape[1]  # frames of a clip; 1 for a picture or a spectrogram
        tokens = tokens.unflatten(0, (len(batch), parts)).flatten(1, 2)
        return tokens, there.repeat_interleave(tokens.shape[1] // parts, 1)


class MultimodalClassifier(nn.Module):
    """Encoders by modality, a fusion of them, and classifiers: `classifier` of the fusion, `heads[modality]` of one."""

    def __init__(self, encoders: Mapping[str, Encoder], *, classes: int, fusion_name: str, dim: int = 128) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"classes={classes} must be at least 2")
        self.encoders = nn.ModuleDict(encoders)
        widths = {name: encoder.width for name, encoder in encoders.items()}
        self.fusion_name, self.classes, self.dim = fusion_name, classes, dim
        self.fusion = fusion(fusion_name, widths, dim)
        self.classifier = nn.Linear(self.fusion.dim, classes)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    def encoder(self, modality: str) -> Encoder:
        if modality not in self.encoders:
            raise ConfigError(f"no encoder for {modality!r}; {nearest(modality, self.encoders)}")
        return self.encoders[modality]  # type: ignore[return-value]

    def encode(self, batch: Batch) -> tuple[Tokens, Masks]:
        """Tokens and masks of every modality."""
        found = {name: self.encoder(name)(batch) for name in self.encoders}
        return {name: tokens for name, (tokens, _) in found.items()}, {name: mask for name, (_, mask) in found.items()}

    def fused(self, tokens: Tokens, masks: Masks) -> Float[Tensor, "B C"]:
        """Class scores from all modalities."""
        return self.classifier(self.fusion(tokens, masks))

    def alone(self, modality: str, tokens: Tokens, masks: Masks) -> Float[Tensor, "B C"]:
        """Class scores from one modality, by its own head."""
        return self.heads[modality](mean_of_tokens(tokens[modality], masks[modality]))

    @torch.no_grad()
    def scores(self, batch: Batch) -> dict[str, Float[Tensor, "B C"]]:
        """Class scores `multimodal` and of each modality, float32, for evaluation."""
        tokens, masks = self.encode(batch)
        found = {name: self.alone(name, tokens, masks).float() for name in self.modalities}
        return {"multimodal": self.fused(tokens, masks).float(), **found}
