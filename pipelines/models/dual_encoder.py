"""Build the dual encoder that a run is configured to train, and save and load its files."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from pipelines.config.architectures import HubTowersConfig
from pipelines.config.model import LossConfig, ModelConfig
from xmodal.data.decode.tokenizer import special_ids
from xmodal.encoders import architectures, dual_encoder_files
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.errors import ConfigError
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.contrastive import contrastive_loss


def reads_text(config: ModelConfig) -> bool:
    """Return whether the model has a tower for captions."""
    return "text" in architectures.modalities_of(config.architecture)


def load_given_tokenizer(config: ModelConfig) -> str | None:
    """Load the tokenizer that the model names, as JSON; None where it has to be trained, or none is needed."""
    if not reads_text(config):
        if config.tokenizer is not None:
            raise ConfigError(f"{config.architecture} reads no text: leave the tokenizer out")
        return None
    if config.tokenizer is None and config.start_from is not None:
        return load_tokenizer(config.start_from, called="start_from")
    source = config.tokenizer
    if config.architecture == "hub" and source is None:
        source = config.keywords().get("text")
    return None if source is None else load_tokenizer(source)


def build_model(
    config: ModelConfig, loss: LossConfig, tokenizer: str | None, seed: int, *, meta: bool = False
) -> DualEncoder:
    """Build the model at step 0, drawn from the seed or loaded; with `meta` only its shapes where nothing is loaded.

    `tokenizer` is None for a model that reads no text.
    """
    if config.start_from is not None:
        model = DualEncoder.from_pretrained(config.start_from)
        if config.architecture != "hub":
            expected = _expected_shapes(config, tokenizer)
            dual_encoder_files.compare_shapes(expected, model, config.start_from)
            if not reads_text(config):  # no shape tells which seconds of a clip a tower takes
                dual_encoder_files.compare_descriptions(expected, model, config.start_from)
    else:
        model = _new_model(config, loss, tokenizer, seed, meta=meta)
    if contrastive_loss(loss.objective).has_bias and model.logit_bias is None:
        raise ConfigError(f"{config.start_from} has no logit bias: train it with --objective info_nce")
    if config.patch_dropout:
        model.drop_patches(config.patch_dropout)
    if config.gradient_checkpointing:
        model.checkpoint_activations()
    return model


def _expected_shapes(config: ModelConfig, tokenizer: str | None) -> DualEncoder:
    """Build the configured architecture without weights: the weights to start from must have its shapes."""
    special = {}
    if tokenizer is not None:
        size = special_ids(tokenizer).vocab_size
        special = {"vocab_size": size, "bos_id": size - 3, "eos_id": size - 1, "pad_id": size - 2}
    with torch.device("meta"):
        return DualEncoder.create(config.architecture, **special | config.keywords())


def _new_model(config: ModelConfig, loss: LossConfig, tokenizer: str | None, seed: int, *, meta: bool) -> DualEncoder:
    special = {} if tokenizer is None else _special_tokens(tokenizer)
    keywords = special | config.keywords()
    if config.architecture == "hub" and keywords.get("pretrained", True):
        keywords = config.keywords()  # a pretrained text tower brings its own vocabulary
    torch.manual_seed(seed)
    with torch.device("meta" if meta and config.architecture != "hub" else "cpu"):
        model = DualEncoder.create(
            config.architecture,
            learnable_temperature=loss.learnable_temperature,
            with_logit_bias=contrastive_loss(loss.objective).has_bias,
            **keywords,
        )
    with torch.no_grad():
        model.log_scale.fill_(math.log(1 / loss.temperature))
    return model


def _special_tokens(tokenizer: str) -> dict[str, Any]:
    ids = special_ids(tokenizer)
    special = {"vocab_size": ids.vocab_size, "bos_id": ids.begin, "eos_id": ids.end, "pad_id": ids.pad}
    if len(set(special.values())) < 4 or None in special.values():
        raise ConfigError("the tokenizer needs its own begin, end and pad tokens for a model from scratch")
    return special


def save_model(tokenizer: str | None, state: TrainState, directory: Path) -> None:
    """Write the model as a Hugging Face directory."""
    model_of(state).save_pretrained(directory, tokenizer_json=tokenizer)


def load_model(state: TrainState, directory: Path) -> None:
    """Read the weights of a checkpoint of the same architecture."""
    model_of(state).load_weights(directory)


def model_of(state: TrainState) -> DualEncoder:
    """Return the dual encoder that a state trains."""
    return cast(DualEncoder, state.objective.model)


def with_absolute_paths(config: ModelConfig) -> ModelConfig:
    """Make the paths of local directories absolute, since the ranks work in a directory of Ray's."""
    if isinstance(config, HubTowersConfig):
        config = replace(config, image=_absolute(config.image), text=_absolute(config.text))
    return replace(config, start_from=_absolute(config.start_from))


def _absolute(name: str | None) -> str | None:
    """Return a directory as an absolute path, and the name of a model on the Hub as it is."""
    return os.path.abspath(name) if name and os.path.isdir(name) else name
