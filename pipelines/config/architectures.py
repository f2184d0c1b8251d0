"""Typed options of each architecture of a dual encoder, and the values that the names of architectures stand for.  The
classes mirror the factories of `xmodal.encoders.architectures` without importing torch; a test compares the two."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import tyro

from pipelines.config.model import ModelConfig
from pipelines.config.plugin_model import PREFIX, plugin_model
from xmodal.errors import ConfigError, nearest

Pooling = Literal["pooler", "cls", "mean"]


def _flag(name: str) -> object:
    """The flag of an option, which keeps its prefix where other groups of flags have none."""
    return tyro.conf.arg(name=f"{PREFIX}{name}")


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig(ModelConfig):
    """An image encoder and a text encoder that are trained from random weights."""

    image_size: Annotated[int, _flag("image-size")]
    """pixels on each side of the square that every image is cropped and resized to"""
    text_width: Annotated[int, _flag("text-width")]
    """width of the text encoder's hidden states"""
    text_depth: Annotated[int, _flag("text-depth")]
    """number of layers of the text transformer; conv-tiny and hog-tiny take 0 as well: one
    hidden layer on the mean of the tokens"""
    text_heads: Annotated[int, _flag("text-heads")]
    """number of attention heads of the text transformer; they must divide its width"""
    context: Annotated[int, _flag("context")]
    """number of tokens that a caption is cut or padded to"""
    dim: Annotated[int, _flag("dim")]
    """width of the embeddings of both encoders"""


@dataclass(frozen=True, kw_only=True)
class ClipTowersConfig(ImageTextConfig):
    """A vision transformer and a causal text transformer, in the shape that transformers.CLIPModel loads."""

    patch_size: Annotated[int, _flag("patch-size")]
    """pixels on each side of a patch; they must divide the image size"""
    width: Annotated[int, _flag("width")]
    """width of the vision transformer's hidden states"""
    depth: Annotated[int, _flag("depth")]
    """number of layers of the vision transformer"""
    heads: Annotated[int, _flag("heads")]
    """number of attention heads of the vision transformer; they must divide its width"""
    activation: Annotated[str, _flag("activation")] = "gelu"
    """activation function of both, by its name in transformers; OpenAI's CLIP uses quick_gelu,
    which takes more memory"""


@dataclass(frozen=True, kw_only=True)
class ConvTowersConfig(ImageTextConfig):
    """A small residual network and a text transformer: for thousands of pairs instead of millions."""

    hidden_sizes: Annotated[tuple[int, ...], _flag("hidden-sizes")]
    """number of channels of each stage of the residual network"""
    depths: Annotated[tuple[int, ...], _flag("depths")]
    """number of blocks of each stage"""
    grid: Annotated[int, _flag("grid")] = 1
    """parts on each side of the image whose features are kept apart instead of averaged: 4
    keeps 4 x 4 parts"""


@dataclass(frozen=True, kw_only=True)
class HogTowersConfig(ImageTextConfig):
    """Fixed histograms of gradients and colours with a trained head, and a text encoder: for very few pairs."""

    grids: Annotated[tuple[int, ...], _flag("grids")]
    """numbers of cells on each side of the image in which gradients are counted; each must
    divide the image size"""
    hidden_size: Annotated[int, _flag("hidden-size")]
    """width of the hidden layer on the histograms"""
    dropout: Annotated[float, _flag("dropout")]
    """dropout probability of the hidden layer in training, from 0 up to 1"""


@dataclass(frozen=True, kw_only=True)
class ResNetBertConfig(ImageTextConfig):
    """ResNet-50 and BERT-base, each with a linear head, from random weights."""

    stem_size: Annotated[int, _flag("stem-size")]
    """number of channels of the first convolution"""
    hidden_sizes: Annotated[tuple[int, ...], _flag("hidden-sizes")]
    """number of channels of each stage of the ResNet"""
    depths: Annotated[tuple[int, ...], _flag("depths")]
    """number of blocks of each stage"""


@dataclass(frozen=True, kw_only=True)
class HubTowersConfig(ModelConfig):
    """Any vision model and any text model of transformers, each with a linear head."""

    image: Annotated[str | None, _flag("image")] = None
    """Hugging Face Hub name or directory of the vision model, e.g. microsoft/resnet-50;
    required without --start-from"""
    text: Annotated[str | None, _flag("text")] = None
    """Hugging Face Hub name or directory of the text model, whose tokenizer is used, e.g.
    google-bert/bert-base-uncased; required without --start-from"""
    dim: Annotated[int, _flag("dim")] = 512
    """width of the embeddings of both encoders"""
    pretrained: Annotated[bool, _flag("pretrained")] = True
    """load the weights of both models; otherwise only their configurations"""
    image_size: Annotated[int | None, _flag("image-size")] = None
    """pixels on each side of an image; None: as in the vision model's configuration"""
    context: Annotated[int | None, _flag("context")] = None
    """number of tokens that a caption is cut or padded to; None: as in the text model's
    configuration"""
    dropout: Annotated[float, _flag("dropout")] = 0.0
    """dropout probability of both models in training, from 0 up to 1"""
    image_pooling: Annotated[Pooling | None, _flag("image-pooling")] = None
    """how hidden states of an image become one vector: the model's pooler, the class token
    (cls) or their mean; None: the pooler where a model was trained with one, else the class
    token"""
    text_pooling: Annotated[Pooling | None, _flag("text-pooling")] = None
    """how hidden states of a text become one vector; None: the pooler where a model was
    trained with one, else the mean"""


@dataclass(frozen=True, kw_only=True)
class AudioVideoTowersConfig(ModelConfig):
    """Two small residual networks: one on the frames of a clip, one on the log-mel spectrogram of its audio."""

    seconds: Annotated[float, _flag("seconds")] = 1.0
    """seconds of a clip that are seen and heard"""
    margin: Annotated[float, _flag("margin")] = 0.0
    """seconds by which a time span that the field map names is widened on both sides"""
    frames: Annotated[int, _flag("frames")] = 8
    """number of frames of a clip, spread evenly over those seconds"""
    size: Annotated[int, _flag("size")] = 64
    """pixels on each side of the square that every frame is cropped and resized to"""
    rate: Annotated[int, _flag("rate")] = 16_000
    """sample rate in Hz that audio is converted to"""
    bands: Annotated[int, _flag("bands")] = 64
    """number of bands of the mel spectrogram"""
    level: Annotated[float, _flag("level")] = -4.0
    """mean of the log-mel spectrogram over the corpus, which is subtracted"""
    level_spread: Annotated[float, _flag("level-spread")] = 2.0
    """standard deviation of the log-mel spectrogram over the corpus, by which it is divided"""
    widths: Annotated[tuple[int, ...], _flag("widths")] = (32, 64, 128)
    """number of channels of each stage of both networks"""
    video_grid: Annotated[tuple[int, ...], _flag("video-grid")] = (2, 2)
    """parts of each frame (rows, columns) whose features are kept apart instead of averaged"""
    audio_grid: Annotated[tuple[int, ...], _flag("audio-grid")] = (4, 8)
    """parts of the spectrogram (bands, time) whose features are kept apart instead of averaged"""
    dim: Annotated[int, _flag("dim")] = 256
    """width of the embeddings of both encoders"""


def _named(kind: type[ModelConfig], architecture: str, **options: Any) -> ModelConfig:
    return kind(architecture=architecture, **options)


_TEXT_TINY: dict[str, Any] = {"text_width": 128, "text_depth": 3, "text_heads": 2, "context": 32, "dim": 256}
_VIT_B: dict[str, Any] = {
    **{"image_size": 224, "width": 768, "depth": 12, "heads": 12},
    **{"text_width": 512, "text_depth": 12, "text_heads": 8, "context": 77, "dim": 512},
}
_ARCHITECTURES: tuple[ModelConfig, ...] = (
    _named(ClipTowersConfig, "vit-tiny", image_size=64, patch_size=8, width=128, depth=6, heads=2, **_TEXT_TINY),
    _named(ConvTowersConfig, "conv-tiny", image_size=64, hidden_sizes=(64, 128, 256), depths=(1, 2, 1), **_TEXT_TINY),
    _named(
        HogTowersConfig,
        "hog-tiny",
        **{"image_size": 64, "grids": (8, 16), "hidden_size": 1024, "dropout": 0.5},
        **{"text_width": 256, "text_depth": 0, "text_heads": 4, "context": 32, "dim": 256},
    ),
    _named(ClipTowersConfig, "vit-b-32", patch_size=32, **_VIT_B),
    _named(ClipTowersConfig, "vit-b-16", patch_size=16, **_VIT_B),
    _named(
        ClipTowersConfig,
        "vit-l-14",
        **{"image_size": 224, "patch_size": 14, "width": 1024, "depth": 24, "heads": 16},
        **{"text_width": 768, "text_depth": 12, "text_heads": 12, "context": 77, "dim": 768},
    ),
    _named(
        ResNetBertConfig,
        "resnet50-bert",
        **{"image_size": 224, "stem_size": 64, "hidden_sizes": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3)},
        **{"text_width": 768, "text_depth": 12, "text_heads": 12, "context": 77, "dim": 256},
    ),
    HubTowersConfig(architecture="hub"),
    AudioVideoTowersConfig(architecture="av-tiny"),
)
ARCHITECTURES: Mapping[str, ModelConfig] = {config.architecture: config for config in _ARCHITECTURES}


def model_config(architecture: str, **options: Any) -> ModelConfig:
    """Return the configuration of a named architecture with other values of some of its fields.

    Raises ConfigError with the nearest name for an architecture or an option that does not exist.

    >>> model_config("vit-tiny", width=256).keywords()["width"]
    256
    """
    default = default_of(architecture)
    names = [field.name for field in fields(default)]
    for name in options:
        if name not in names:
            raise ConfigError(f"{architecture} has no option {name!r}: {nearest(name, names)}")
    return replace(default, **options)


def default_of(architecture: str) -> ModelConfig:
    """Return the values that the name of an architecture stands for; ConfigError with the nearest name."""
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    return plugin_model(architecture, ARCHITECTURES)
