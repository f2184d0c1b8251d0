"""The multimodal classifier: class scores from all modalities together and from each modality alone.

The encoders of the modalities share nothing; a fusion and a linear classifier join them. Each modality also has a
linear classifier of its own (unimodal assistance, Wei & Hu 2024, §3.1), which reads that encoder only.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.fusion import MasksByModality, TokensByModality, build_fusion, mean_of_tokens
from xmodal.encoders.inputs import ImageInput, TextInput
from xmodal.encoders.tower import feature_width
from xmodal.errors import ConfigError, nearest

EncoderInput = ImageInput | TextInput | VideoInput | AudioInput


class ModalityEncoder(nn.Module):
    """Maps one modality of a batch to tokens [B, N, W] and a mask [B, N] of those that are present.

    `backbone` is a transformers model whose `last_hidden_state` is [R, W, h, w] or [R, L, W]; for a clip the R rows are
    its frames, whose tokens are concatenated. A backbone that reads `input_values` (AST) gets the spectrogram as [B, L,
    M].
    """

    def __init__(self, input_adapter: EncoderInput, backbone: Any) -> None:
        super().__init__()
        self.input_adapter, self.backbone = input_adapter, backbone
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # an unused head would make DDP wait for its gradients

    @property
    def width(self) -> int:
        """Return W, the width of the tokens."""
        return feature_width(self.backbone.config)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "B N W"], Bool[Tensor, "B N"]]:
        """Return the tokens and their mask."""
        inputs = self.input_adapter(batch)
        if self.backbone.main_input_name == "input_values":
            inputs = {"input_values": inputs["pixel_values"][:, 0].transpose(1, 2)}
        hidden = self.backbone(**inputs).last_hidden_state
        tokens = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
        present = self.input_adapter.mask(batch)
        if present.shape == tokens.shape[:2]:  # a mask of the tokens themselves
            return tokens, present
        frames = present.shape[1]  # 1 for an image or a spectrogram
        tokens = tokens.unflatten(0, (len(batch), frames)).flatten(1, 2)
        return tokens, present.repeat_interleave(tokens.shape[1] // frames, 1)


class MultimodalClassifier(nn.Module):
    """Encoders by modality, a fusion of them, a `classifier` of the fusion and `heads` of the single encoders."""

    def __init__(
        self, encoders: Mapping[str, ModalityEncoder], *, classes: int, fusion_name: str, dim: int = 128
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"classes={classes} must be at least 2")
        self.encoders = nn.ModuleDict(encoders)
        widths = {name: encoder.width for name, encoder in encoders.items()}
        self.fusion_name, self.classes, self.dim = fusion_name, classes, dim
        self.fusion = build_fusion(fusion_name, widths, dim)
        self.classifier = nn.Linear(self.fusion.dim, classes)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, width in widths.items()})

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the names of the modalities."""
        return tuple(self.encoders)

    def encoder(self, modality: str) -> ModalityEncoder:
        """Return the encoder of a modality; ConfigError for an unknown one."""
        if modality not in self.encoders:
            raise ConfigError(f"no encoder for {modality!r}; {nearest(modality, self.encoders)}")
        return cast(ModalityEncoder, self.encoders[modality])

    def encode(self, batch: Batch) -> tuple[TokensByModality, MasksByModality]:
        """Return tokens and masks of every modality."""
        encoded = {name: self.encoder(name)(batch) for name in self.encoders}
        return {name: tokens for name, (tokens, _) in encoded.items()}, {
            name: mask for name, (_, mask) in encoded.items()
        }

    def multimodal_scores(self, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B C"]:
        """Return class scores from all modalities."""
        return cast(Tensor, self.classifier(self.fusion(tokens, masks)))

    def unimodal_scores(self, modality: str, tokens: TokensByModality, masks: MasksByModality) -> Float[Tensor, "B C"]:
        """Return class scores from one modality, by its own head."""
        return cast(Tensor, self.heads[modality](mean_of_tokens(tokens[modality], masks[modality])))

    @torch.no_grad()
    def scores(self, batch: Batch) -> dict[str, Float[Tensor, "B C"]]:
        """Return class scores `multimodal` and of each modality, float32, for evaluation."""
        tokens, masks = self.encode(batch)
        unimodal = {name: self.unimodal_scores(name, tokens, masks).float() for name in self.modalities}
        return {"multimodal": self.multimodal_scores(tokens, masks).float(), **unimodal}
