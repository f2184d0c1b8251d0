"""Configuration of a dual encoder and of its loss; the options of each architecture are in `architectures.py`."""

from dataclasses import dataclass, fields
from typing import Any

from xmodal.errors import ConfigError, nearest
from xmodal.plugins import has_plugins

OBJECTIVES = ("info_nce", "sigmoid")  # a plugin may register further ones


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The two encoders of the model: an architecture with its options, and what their weights begin with."""

    architecture: str
    """name of the architecture, whose options begin with --model: vit-tiny, conv-tiny,
    hog-tiny, vit-b-32, vit-b-16, vit-l-14, resnet50-bert, hub, av-tiny, or one that a
    plugin adds"""
    start_from: str | None = None
    """directory or Hugging Face Hub name of a dual encoder or CLIP of this architecture whose
    weights training starts from; None: random weights"""
    tokenizer: str | None = None
    """directory or Hugging Face Hub name of a tokenizer; None: the one of --start-from, else a
    new one that is trained on the captions of the corpus"""
    vocab_size: int = 8192  # number of tokens of a tokenizer that is trained on the corpus
    patch_dropout: float = 0.0  # share of the patches that a ViT leaves out in training, from 0 up to 1
    gradient_checkpointing: bool = False  # compute activations twice: less memory, about a third more time
    compile: bool = False  # compile both encoders with torch.compile

    def keywords(self) -> dict[str, Any]:
        """Return the options of the architecture that are not None, by the names of its factory's arguments."""
        common = {field.name for field in fields(ModelConfig)}
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in common}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The contrastive loss between the two embeddings of a pair."""

    objective: str = "info_nce"
    """contrastive loss: info_nce (softmax over the batch, CLIP), sigmoid (a sigmoid for each
    pair, SigLIP), or one that a plugin adds"""
    temperature: float = 0.07  # temperature of the similarities at the start of the training, from 0.01 to 1
    learnable_temperature: bool = True  # train the temperature; otherwise it stays as it starts
    mask_duplicates: bool = True  # pairs with equal images or equal captions are no negatives of each other

    def __post_init__(self) -> None:
        check_objective(self.objective)
        if not 0.01 <= self.temperature <= 1:
            raise ConfigError(f"temperature={self.temperature} must lie in [0.01, 1]")


def check_objective(name: str) -> None:
    """Raise ConfigError, with the nearest name, for a contrastive loss that can be neither built in nor a plugin's."""
    if name not in OBJECTIVES and not has_plugins():
        raise ConfigError(f"objective={name!r} is no contrastive loss: {nearest(name, OBJECTIVES)}")
