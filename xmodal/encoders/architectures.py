"""The named architectures of a dual encoder, and the towers built from a name and sizes."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from xmodal.encoders.av_cnn import av_towers
from xmodal.encoders.clip import clip_towers
from xmodal.encoders.cnn_towers import conv_towers, hog_towers, resnet_bert_towers
from xmodal.encoders.hub_towers import hub_towers
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError, nearest

_VIT_B: dict[str, Any] = {"width": 768, "depth": 12, "heads": 12, "text_width": 512, "text_depth": 12, "text_heads": 8}
_VIT_L: dict[str, Any] = {
    "width": 1024,
    "depth": 24,
    "heads": 16,
    "text_width": 768,
    "text_depth": 12,
    "text_heads": 12,
}
_VIT_TINY: dict[str, Any] = {"width": 128, "depth": 6, "heads": 2}
_CONV_TINY: dict[str, Any] = {"hidden_sizes": (64, 128, 256), "depths": (1, 2, 1)}
_TEXT_TINY: dict[str, Any] = {"text_width": 128, "text_depth": 3, "text_heads": 2}

ARCHITECTURES: dict[str, Callable[..., dict[str, Tower]]] = {
    "vit-tiny": partial(clip_towers, image_size=64, patch_size=8, context=32, dim=256, **_VIT_TINY, **_TEXT_TINY),
    "conv-tiny": partial(conv_towers, image_size=64, context=32, dim=256, **_CONV_TINY, **_TEXT_TINY),
    "hog-tiny": hog_towers,
    "vit-b-32": partial(clip_towers, image_size=224, patch_size=32, context=77, dim=512, **_VIT_B),
    "vit-b-16": partial(clip_towers, image_size=224, patch_size=16, context=77, dim=512, **_VIT_B),
    "vit-l-14": partial(clip_towers, image_size=224, patch_size=14, context=77, dim=768, **_VIT_L),
    "resnet50-bert": resnet_bert_towers,
    "hub": hub_towers,
    "av-tiny": av_towers,
}
_MODALITIES: dict[str, tuple[str, str]] = {"av-tiny": ("video", "audio")}  # of those that are not image and text


def modalities_of(architecture: str) -> tuple[str, str]:
    """Return the modalities of the two towers of `architecture`; ConfigError for an unknown name.

    >>> modalities_of("vit-b-32")
    ('image', 'text')
    """
    _factory(architecture)
    return _MODALITIES.get(architecture, ("image", "text"))


def register_architecture(
    name: str, factory: Callable[..., dict[str, Tower]], *, modalities: tuple[str, str] = ("image", "text")
) -> None:
    """Add an architecture of a user's own, for `DualEncoder.create` and `--architecture`.

    `factory` takes keyword arguments only and returns a tower for each of the two `modalities`. One that reads text
    takes `vocab_size`, `bos_id`, `eos_id` and `pad_id` of the tokenizer. Raises ConfigError for a name that is taken.
    """
    if ARCHITECTURES.setdefault(name, factory) is not factory:
        raise ConfigError(f"the architecture {name!r} exists already: register yours under another name")
    _MODALITIES[name] = modalities


def build_towers(architecture: str, **arguments: object) -> dict[str, Tower]:
    """Build the towers of `architecture`; `arguments` are its factory's and override the sizes of the name.

    Raises ConfigError for an unknown architecture or argument (with the nearest one), a missing argument and an invalid
    size.
    """
    factory = _factory(architecture)
    parameters = inspect.signature(factory).parameters
    for name in arguments:
        if name not in parameters:
            raise ConfigError(f"{architecture} has no argument {name!r}; {nearest(name, parameters)}")
        arguments[name] = _validate(architecture, name, arguments[name], parameters[name].annotation)
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise ConfigError(f"{architecture} needs {', '.join(missing)}")
    return factory(**arguments)


def _factory(architecture: str) -> Callable[..., dict[str, Tower]]:
    """Return the factory of an architecture; ConfigError for an unknown name."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"unknown architecture {architecture!r}; {nearest(architecture, ARCHITECTURES)}")
    return ARCHITECTURES[architecture]


def _validate(architecture: str, name: str, value: Any, annotation: Any) -> object:
    """Return a valid argument, a single number as a list where several may be given; ConfigError for an invalid one."""
    if annotation is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{architecture}: {name}={value!r} must be a number")
        return float(value)
    if annotation not in (int, Sequence[int]):
        return value
    minimum = 0 if name.endswith(("_id", "depth")) else 1
    is_sequence = annotation is not int and isinstance(value, Sequence)
    numbers = value if is_sequence else [value]
    if not all(type(number) is int and number >= minimum for number in numbers):
        kind = "a whole number" if annotation is int else "whole numbers with commas between"
        raise ConfigError(f"{architecture}: {name}={value!r} must be {kind}, at least {minimum}")
    return value if annotation is int else numbers
