"""Sizes in, transformers of a clip's frames (ViT) and of its spectrogram (AST) out, as encoders of a classifier."""

from typing import Any

from transformers import ASTConfig, ASTModel, ViTConfig, ViTModel

from xmodal.errors import ConfigError


def frame_transformer(size: int, *, width: int, depth: int, heads: int, patch: int) -> ViTModel:
    """A ViT (Dosovitskiy et al. 2021) over square patches of one frame of `size` px; clips are its frames' tokens."""
    if size % patch:
        raise ConfigError(f"size={size} is not a multiple of patch={patch}: choose a patch that divides it")
    own = _sizes(width, depth, heads)
    return ViTModel(ViTConfig(**own, image_size=size, patch_size=patch), add_pooling_layer=False)


def spectrogram_transformer(bands: int, length: int, *, width: int, depth: int, heads: int, patch: int) -> ASTModel:
    """An audio spectrogram transformer (Gong et al. 2021) over patches of `bands` mel bands and `length` frames.

    Patches do not overlap. What they leave over at the end of bands or time is not read.
    """
    if min(bands, length) < patch:
        raise ConfigError(
            f"a spectrogram of {bands} bands and {length} frames has no patch of {patch}: lower patch, or raise bands "
            "or seconds"
        )
    own = _sizes(width, depth, heads)
    strides: dict[str, Any] = {"frequency_stride": patch, "time_stride": patch}
    return ASTModel(ASTConfig(**own, **strides, patch_size=patch, num_mel_bins=bands, max_length=length))


def _sizes(width: int, depth: int, heads: int) -> dict[str, Any]:
    if width % heads:
        raise ConfigError(f"width={width} cannot be divided among heads={heads}")
    return {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 4 * width
    }  # fmt: skip
