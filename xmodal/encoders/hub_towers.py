"""Names of transformers checkpoints in, one tower for images and one for text out."""

from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from xmodal.encoders.hub_files import explained, quiet
from xmodal.encoders.inputs import Pixels, Tokens
from xmodal.encoders.pooling import Pooling
from xmodal.encoders.preprocessing import read_normalisation
from xmodal.encoders.tower import Tower, freeze_unused
from xmodal.errors import CheckpointError, ConfigError

# Models whose own pooled output is the one they were trained to be read by.
OWN_POOLER = ("clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model")


def hub_towers(
    *,
    image: str,
    text: str,
    dim: int = 512,
    pretrained: bool = True,
    image_size: int | None = None,
    context: int | None = None,
    vocab_size: int | None = None,
    bos_id: int | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
    dropout: float = 0.0,
    image_pooling: Pooling | None = None,
    text_pooling: Pooling | None = None,
) -> dict[str, Tower]:
    """`image` and `text` are Hub names or directories of any vision and text model, or of a model that has both.

    With `pretrained` their weights are loaded, and the tokenizer must be the text model's own; without, only their
    configurations are, and `vocab_size` and the special ids are the new tokenizer's. Pooling is the model's own for
    CLIP, SigLIP and networks in stages, else the class token of images and the mean over tokens of text.
    Raises ConfigError for sizes that do not fit and CheckpointError for weights that cannot be read.
    """
    ids = {"vocab_size": vocab_size, "bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    vision = _config(image, "vision_config", dropout)
    language = _config(text, "text_config", dropout)
    _fit_size(vision, image, image_size, pretrained=pretrained)
    _fit_vocabulary(language, text, ids, pretrained=pretrained)
    pixels = Pixels("image", size=_size(vision, image_size), **read_normalisation(image))
    tokens = Tokens("text", size=_context(language, text, context), masked=language.model_type != "clip_text_model")
    return {
        "image": _tower(pixels, image, vision, dim, image_pooling or _image_pooling(vision), pretrained=pretrained),
        "text": _tower(tokens, text, language, dim, text_pooling or _text_pooling(language), pretrained=pretrained),
    }


def _config(name: str, part: str, dropout: float) -> PreTrainedConfig:
    """The configuration of a model, or of one part of a model that has both, with its dropout set."""
    with explained(name):
        config = AutoConfig.from_pretrained(name)
    config = getattr(config, part, config)
    for field, value in config.to_dict().items():
        if "drop" in field and isinstance(value, float):
            setattr(config, field, dropout)
    return config


def _fit_size(config: PreTrainedConfig, name: str, image_size: int | None, *, pretrained: bool) -> None:
    own = getattr(config, "image_size", None)
    if image_size is None or own is None or own == image_size:
        return
    if pretrained:
        raise ConfigError(f"{name} was trained at image_size={own}, not {image_size}: leave image_size out")
    config.image_size = image_size


def _fit_vocabulary(config: PreTrainedConfig, name: str, ids: dict[str, int | None], *, pretrained: bool) -> None:
    if not pretrained:
        for field, value in ids.items():
            if value is not None:
                setattr(config, field, value)
    elif ids["vocab_size"] is not None and ids["vocab_size"] > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {ids['vocab_size']} tokens but {name} knows {config.vocab_size}: use its own tokenizer"
        )


def _size(config: PreTrainedConfig, image_size: int | None) -> int:
    own = getattr(config, "image_size", None)
    return own if isinstance(own, int) else image_size or 224


def _context(config: PreTrainedConfig, name: str, context: int | None) -> int:
    longest = getattr(config, "max_position_embeddings", None) or 77
    if context is not None and context > longest:
        raise ConfigError(f"context={context} is longer than the {longest} positions of {name}")
    return context or min(77, longest)


def _image_pooling(config: PreTrainedConfig) -> Pooling:
    staged = hasattr(config, "depths")
    return "pooler" if staged or config.model_type in OWN_POOLER else "cls"


def _text_pooling(config: PreTrainedConfig) -> Pooling:
    return "pooler" if config.model_type in OWN_POOLER else "mean"


def _tower(
    intake: Pixels | Tokens, name: str, config: PreTrainedConfig, dim: int, pooling: Pooling, *, pretrained: bool
) -> Tower:
    backbone, missing = _load(name, config) if pretrained else (AutoModel.from_config(config), set())
    tower = Tower.with_head(intake, backbone, dim, pooling=pooling, bias=True)
    freeze_unused(tower)
    used = {key for key, p in tower.backbone.named_parameters() if p.requires_grad}
    if missing & used:
        raise CheckpointError(f"{name} has no weights for {', '.join(sorted(missing & used)[:3])}")
    return tower


def _load(name: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, set[str]]:
    """The backbone and the names of parameters that the checkpoint does not have."""
    with quiet(name), explained(name):
        loaded: Any = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    model, report = loaded
    return cast(PreTrainedModel, model), set(report["missing_keys"])
