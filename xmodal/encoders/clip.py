"""Sizes in, the two towers of a CLIP out (Radford et al. 2021), in the shape that `transformers.CLIPModel` loads."""

from collections.abc import Mapping
from typing import Any

from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel
from transformers.activations import ACT2FN

from xmodal.encoders.inputs import Pixels, Tokens
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError, nearest

# CLIPModel's names of our parts; the rest of a name is the same in both.
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
    """A ViT (`width`, `depth`, `heads`, square patches) and a causal text transformer of `context` tokens, D = `dim`.

    `activation` is `gelu`, which costs a third of OpenAI's `quick_gelu` in memory; the weights are drawn as CLIP's.
    Raises ConfigError for sizes that do not divide and for the end token's id 2.
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
    return towers_of_clip(CLIPModel(config))


def towers_of_clip(clip: CLIPModel, pixels: Pixels | None = None) -> dict[str, Tower]:
    """The parts of a CLIPModel as towers; `pixels` where its normalisation is not CLIP's own."""
    vision: Any = clip.config.vision_config
    text: Any = clip.config.text_config
    pixels = pixels or Pixels("image", size=vision.image_size)
    tokens = Tokens("text", size=text.max_position_embeddings, masked=False)
    return {
        "image": Tower(pixels, clip.vision_model, clip.visual_projection, pooling="pooler"),
        "text": Tower(tokens, clip.text_model, clip.text_projection, pooling="pooler"),
    }


def is_clip_shaped(towers: Mapping[str, Tower]) -> bool:
    """Whether CLIPModel holds these towers: its two backbones, pooled their own way, heads without bias."""
    shapes = {"image": CLIPVisionModel, "text": CLIPTextModel}
    return set(towers) == set(shapes) and all(
        isinstance(tower.backbone, shapes[name]) and tower.pooling == "pooler" and tower.projection.bias is None
        for name, tower in towers.items()
    )


def clip_config(towers: Mapping[str, Tower]) -> CLIPConfig:
    """The configuration of the CLIPModel that these towers make up."""
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
    """CLIPModel's name of one of our parameters."""
    for ours, theirs in CLIP_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def _check_sizes(image_size: int, patch_size: int, widths: dict[str, tuple[int, int]]) -> None:
    if image_size % patch_size:
        raise ConfigError(f"image_size={image_size} is not a multiple of patch_size={patch_size}: change one of them")
    for name, (width, heads) in widths.items():
        if width % heads:
            raise ConfigError(f"{name}={width} does not divide into {heads} heads: change one of them")


def check_eos(eos_id: int, vocab_size: int) -> None:
    """Raises ConfigError for an end token that CLIP's text model would not pool at."""
    if eos_id == 2:
        # transformers takes the id 2 for a mark of old checkpoints and pools at the highest id instead
        # (huggingface/transformers pull request 24773).
        raise ConfigError(
            "eos_id=2: transformers.CLIPModel would not pool at it; give the end token any other id, e.g. the last one"
        )
    if not 0 <= eos_id < vocab_size:
        raise ConfigError(f"eos_id={eos_id} is outside the vocabulary of {vocab_size} tokens")
