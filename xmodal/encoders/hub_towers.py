"""An image tower and a text tower from checkpoints of transformers."""

from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from xmodal.encoders.hub_files import reading_errors, without_progress_bar
from xmodal.encoders.inputs import ImageInput, TextInput
from xmodal.encoders.pooling import Pooling
from xmodal.encoders.preprocessing import read_normalisation
from xmodal.encoders.tower import Tower, freeze_unused_parameters
from xmodal.errors import CheckpointError, ConfigError

# Models that were trained on their own pooled output.
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
    """Build towers from Hub names or directories of any vision and text model, or of a model that has both.

    With `pretrained` their weights are loaded, and the tokenizer must be the text model's own; without, only their
    configurations are, and `vocab_size` and the special ids are the new tokenizer's. Pooling is the model's own for
    CLIP, SigLIP and networks in stages, else the class token of images and the mean over tokens of text. Raises
    ConfigError for sizes that do not fit and CheckpointError for weights that cannot be read.
    """
    ids = {"vocab_size": vocab_size, "bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    vision = _config(image, "vision_config", dropout)
    language = _config(text, "text_config", dropout)
    _fit_size(vision, image, image_size, pretrained=pretrained)
    _fit_vocabulary(language, text, ids, pretrained=pretrained)
    image_input = ImageInput("image", size=_size(vision, image_size), **read_normalisation(image))
    text_input = TextInput(
        "text", size=_context(language, text, context), masked=language.model_type != "clip_text_model"
    )
    return {
        "image": _tower(
            image_input, image, vision, dim, image_pooling or _image_pooling(vision), pretrained=pretrained
        ),
        "text": _tower(text_input, text, language, dim, text_pooling or _text_pooling(language), pretrained=pretrained),
    }


def _config(name: str, part: str, dropout: float) -> PreTrainedConfig:
    """Return the configuration of a model, or of one part of a model that has both, with its dropout set."""
    with reading_errors(name):
        whole = AutoConfig.from_pretrained(name)
    config: PreTrainedConfig = getattr(whole, part, whole)
    for field, value in config.to_dict().items():
        if "drop" in field and isinstance(value, float):
            setattr(config, field, dropout)
    return config


def _fit_size(config: PreTrainedConfig, name: str, image_size: int | None, *, pretrained: bool) -> None:
    """Set the image size of a new model; ConfigError for a size that a pretrained one was not trained at."""
    trained_size = getattr(config, "image_size", None)
    if image_size is None or trained_size is None or trained_size == image_size:
        return
    if pretrained:
        raise ConfigError(f"{name} was trained at image_size={trained_size}, not {image_size}: leave image_size out")
    config.image_size = image_size


def _fit_vocabulary(config: PreTrainedConfig, name: str, ids: dict[str, int | None], *, pretrained: bool) -> None:
    """Set the vocabulary of a new model; ConfigError for a tokenizer that is too large for a pretrained one."""
    if not pretrained:
        for field, value in ids.items():
            if value is not None:
                setattr(config, field, value)
    elif ids["vocab_size"] is not None and ids["vocab_size"] > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {ids['vocab_size']} tokens but {name} has {config.vocab_size}: use its own tokenizer"
        )


def _size(config: PreTrainedConfig, image_size: int | None) -> int:
    """Return the image size: the model's own, else the given one, else 224."""
    trained_size = getattr(config, "image_size", None)
    return trained_size if isinstance(trained_size, int) else image_size or 224


def _context(config: PreTrainedConfig, name: str, context: int | None) -> int:
    """Return the number of text tokens: the given one, else 77, as far as the model has positions."""
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
    input_adapter: ImageInput | TextInput,
    name: str,
    config: PreTrainedConfig,
    dim: int,
    pooling: Pooling,
    *,
    pretrained: bool,
) -> Tower:
    """Build a tower, with pretrained weights if asked for."""
    backbone, missing = _load(name, config) if pretrained else (AutoModel.from_config(config), set())
    tower = Tower.with_head(input_adapter, backbone, dim, pooling=pooling, bias=True)
    freeze_unused_parameters(tower)
    used = {key for key, p in tower.backbone.named_parameters() if p.requires_grad}
    if missing & used:
        raise CheckpointError(f"{name} has no weights for {', '.join(sorted(missing & used)[:3])}")
    return tower


def _load(name: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, set[str]]:
    """Return the backbone and the names of parameters that the checkpoint lacks."""
    with without_progress_bar(name), reading_errors(name):
        loaded: Any = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    model, report = loaded
    return cast(PreTrainedModel, model), set(report["missing_keys"])
