"""A dual encoder and its loss, as a run asks for them."""

from dataclasses import dataclass
from typing import Any, Literal

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Model:
    """The two towers."""

    architecture: str = "vit-tiny"
    """vit-tiny, conv-tiny, hog-tiny, vit-b-32, vit-b-16, vit-l-14, resnet50-bert, hub; of clips av-tiny"""
    arguments: tuple[str, ...] = ()
    """of the architecture, e.g. width=256 depth=8; hub: image=NAME text=NAME; av-tiny: seconds=2 frames=12"""
    start_from: str | None = None  # directory or Hub name of a dual encoder or CLIP of this architecture
    tokenizer: str | None = None  # directory or Hub name; None: that of `start_from`, else trained on the corpus
    vocab_size: int = 8192  # of a tokenizer trained on the corpus
    patch_dropout: float = 0.0  # share of a ViT's patches left out in training
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time
    compile: bool = False  # torch.compile the towers

    def keywords(self) -> dict[str, Any]:
        """`arguments` as keyword arguments; ConfigError for one that is not NAME=VALUE."""
        pairs = [argument.partition("=") for argument in self.arguments]
        for name, equals, _ in pairs:
            if not (equals and name.isidentifier()):
                raise ConfigError(f"model arguments: {name!r} is not NAME=VALUE, e.g. width=256")
        return {name: _value(value) for name, _, value in pairs}


def _value(text: str) -> Any:
    """The number, truth value or tuple of numbers that `text` spells, else the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return tuple(kind(part) for part in text.split(",")) if "," in text else kind(text)
        except ValueError:
            continue
    return text


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is minimised."""

    objective: Literal["info_nce", "sigmoid"] = "info_nce"  # softmax (CLIP) or pairwise sigmoid (SigLIP)
    temperature: float = 0.07  # at the start
    learnable_temperature: bool = True  # else it stays as it starts
    mask_duplicates: bool = True  # pairs with the same picture or caption are no negatives of each other

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1:
            raise ConfigError(f"temperature={self.temperature} must lie in [0.01, 1]")
