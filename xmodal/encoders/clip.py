"""The two towers of a CLIP (Radford et al. 2021), in the shape that `transformers.CLIPModel` loads."""

from collections.abc import Mapping
from typing import Any

from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel
from transformers.activations import ACT2FN

from xmodal.encoders.inputs import ImageInput, TextInput
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError, nearest

# Our prefixes of parameter names and those of CLIPModel; the rest of a name is the same in both.
CLIP_NAMES = {
    "towers.image.backbone.": "vision_model.",
    "towers.image.projection.": "visual_projection.",
    "towers.text.backbone.": "text_model.",
    "towers.text.projection.": "text_projection.",
    "log_scale": "logit_scale",
}


def clip_towers(
    *,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    image_size: int,
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    text_width: int,
    text_depth: int,
    text_heads: int,
    context: int,
    dim: int,
    activation: str = "gelu",
) -> dict[str, Tower]:
    """Build a ViT (`width`, `depth`, `heads`, square patches) and a causal text transformer of `context` tokens.

    `dim` is D. `activation` is `gelu`, which needs a third of the memory of OpenAI's `quick_gelu`; the weights are
    drawn as CLIP's. Raises ConfigError for sizes that do not divide and for the end token's id 2.
    """
    _check_sizes(image_size, patch_size, {"width": (width, heads), "text_width": (text_width, text_heads)})
    check_eos(eos_id, vocab_size)
    if activation not in ACT2FN:
        raise ConfigError(f"unknown activation {activation!r}; {nearest(activation, ACT2FN)}")
    vision = {
        "image_size": image_size,
        "patch_size": patch_size,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
    }
    text = {
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_depth,
        "num_attention_heads": text_heads,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    }
    shared = {"projection_dim": dim, "hidden_act": activation}
    config = CLIPConfig(vision_config=vision | shared, text_config=text | shared, projection_dim=dim)
    return towers_from_clip(CLIPModel(config))


def towers_from_clip(clip: CLIPModel, image_input: ImageInput | None = None) -> dict[str, Tower]:
    """Return the parts of a CLIPModel as towers; `image_input` is needed if its normalisation is not CLIP's own."""
    vision: Any = clip.config.vision_config
    text: Any = clip.config.text_config
    image_input = image_input or ImageInput("image", size=vision.image_size)
    text_input = TextInput("text", size=text.max_position_embeddings, masked=False)
    return {
        "image": Tower(image_input, clip.vision_model, clip.visual_projection, pooling="pooler"),
        "text": Tower(text_input, clip.text_model, clip.text_projection, pooling="pooler"),
    }


def is_clip_shaped(towers: Mapping[str, Tower]) -> bool:
    """Return whether CLIPModel can hold these towers: its two backbones, their own pooling, heads without bias."""
    shapes = {"image": CLIPVisionModel, "text": CLIPTextModel}
    return set(towers) == set(shapes) and all(
        isinstance(tower.backbone, shapes[name]) and tower.pooling == "pooler" and tower.projection.bias is None
        for name, tower in towers.items()
    )


def clip_config(towers: Mapping[str, Tower]) -> CLIPConfig:
    """Return the configuration of the CLIPModel that these towers make up."""
    image, text = towers["image"], towers["text"]
    dim = image.projection.out_features
    config = CLIPConfig(
        vision_config=image.backbone.config.to_dict() | {"projection_dim": dim},
        text_config=text.backbone.config.to_dict() | {"projection_dim": dim},
        projection_dim=dim,
    )
    config.architectures = ["CLIPModel"]
    return config


def clip_name(name: str) -> str:
    """Return CLIPModel's name of one of our parameters.

    >>> clip_name("log_scale")
    'logit_scale'
    """
    for ours, theirs in CLIP_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def _check_sizes(image_size: int, patch_size: int, widths: dict[str, tuple[int, int]]) -> None:
    """Raise ConfigError for sizes that do not divide."""
    if image_size % patch_size:
        raise ConfigError(f"image_size={image_size} is not a multiple of patch_size={patch_size}: change one of them")
    for name, (width, heads) in widths.items():
        if width % heads:
            raise ConfigError(f"{name}={width} does not divide into {heads} heads: change one of them")


def check_eos(eos_id: int, vocab_size: int) -> None:
    """Raise ConfigError for an end token at which CLIP's text model would not pool."""
    if eos_id == 2:
        # transformers treats the id 2 as the mark of an old checkpoint and pools at the highest id instead
        # (huggingface/transformers pull request 24773).
        raise ConfigError(
            "eos_id=2: transformers.CLIPModel would not pool at it; give the end token any other id, e.g. the last one"
        )
    if not 0 <= eos_id < vocab_size:
        raise ConfigError(f"eos_id={eos_id} is outside the vocabulary of {vocab_size} tokens")
