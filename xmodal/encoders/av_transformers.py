"""Transformers for images or frames (ViT), spectrograms (AST) and texts (BERT), as encoders of a classifier."""

from typing import Any

from transformers import ASTConfig, ASTModel, BertConfig, BertModel, ViTConfig, ViTModel

from xmodal.errors import ConfigError


def frame_transformer(size: int, *, width: int, depth: int, heads: int, patch: int) -> ViTModel:
    """Build a ViT (Dosovitskiy et al. 2021) over square patches of one frame of `size` px.

    Raises ConfigError for sizes that do not divide.
    """
    if size % patch:
        raise ConfigError(f"size={size} is not a multiple of patch={patch}: choose a patch that divides it")
    sizes = _sizes(width, depth, heads)
    return ViTModel(ViTConfig(**sizes, image_size=size, patch_size=patch), add_pooling_layer=False)


def spectrogram_transformer(bands: int, length: int, *, width: int, depth: int, heads: int, patch: int) -> ASTModel:
    """Build an audio spectrogram transformer (Gong et al. 2021) over patches of `bands` mel bands and `length` frames.

    Patches do not overlap; bands or frames that do not fill a patch at the end are ignored.
    """
    if min(bands, length) < patch:
        raise ConfigError(
            f"a spectrogram of {bands} bands and {length} frames has no patch of {patch}: lower patch, or raise bands "
            "or seconds"
        )
    sizes = _sizes(width, depth, heads)
    strides: dict[str, Any] = {"frequency_stride": patch, "time_stride": patch}
    return ASTModel(ASTConfig(**sizes, **strides, patch_size=patch, num_mel_bins=bands, max_length=length))


def text_transformer(vocab_size: int, context: int, *, pad_id: int, width: int, depth: int, heads: int) -> BertModel:
    """Build a BERT (Devlin et al. 2019) over the tokens of a text of at most `context` tokens."""
    sizes = _sizes(width, depth, heads)
    config = BertConfig(
        **sizes, vocab_size=vocab_size, max_position_embeddings=context, type_vocab_size=1, pad_token_id=pad_id
    )
    return BertModel(config, add_pooling_layer=False)


def _sizes(width: int, depth: int, heads: int) -> dict[str, Any]:
    if width % heads:
        raise ConfigError(f"width={width} cannot be divided among heads={heads}")
    return {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 4 * width
    }  # fmt: skip
