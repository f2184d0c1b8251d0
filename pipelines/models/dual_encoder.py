"""A dual encoder as a run asks for it: architecture, weights to start from, tokenizer, loss; and its files."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray
import torch

from pipelines.config.model import Loss, Model
from xmodal.data.decode.tokenizer import special_ids
from xmodal.encoders import architectures, dual_encoder_files
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.errors import ConfigError
from xmodal.training.engine.state import TrainState


def reads_text(chosen: Model) -> bool:
    """Whether the model has a tower for captions."""
    return "text" in architectures.modalities(chosen.architecture)


def given_tokenizer(chosen: Model) -> str | None:
    """The tokenizer's JSON where the model names one; None where it has to be trained, or none is needed."""
    if not reads_text(chosen):
        if chosen.tokenizer is not None:
            raise ConfigError(f"{chosen.architecture} reads no text: leave the tokenizer out")
        return None
    if chosen.tokenizer is None and chosen.start_from is not None:
        return load_tokenizer(chosen.start_from, called="start_from")
    source = chosen.tokenizer
    if chosen.architecture == "hub" and source is None:
        source = chosen.keywords().get("text")
    return None if source is None else load_tokenizer(source)


def build_model(chosen: Model, loss: Loss, tokenizer: str | None, seed: int, *, meta: bool = False) -> DualEncoder:
    """The model at step 0, drawn from the seed or loaded; with `meta` only its shapes where nothing is loaded.

    `tokenizer` is None for a model that reads no text.
    """
    sigmoid = loss.objective == "sigmoid"
    if chosen.start_from is not None:
        model = DualEncoder.from_pretrained(chosen.start_from)
        if chosen.architecture != "hub":
            named = _as_named(chosen, tokenizer)
            dual_encoder_files.compare_shapes(named, model, chosen.start_from)
            if not reads_text(chosen):  # no shape tells which seconds of a clip a tower takes
                dual_encoder_files.compare_descriptions(named, model, chosen.start_from)
    else:
        model = _new_model(chosen, loss, tokenizer, seed, meta=meta)
    if sigmoid and model.logit_bias is None:
        raise ConfigError(f"{chosen.start_from} has no logit bias: train it with --objective info_nce")
    if chosen.patch_dropout:
        model.drop_patches(chosen.patch_dropout)
    if chosen.gradient_checkpointing:
        model.checkpoint_activations()
    return model


def _as_named(chosen: Model, tokenizer: str | None) -> DualEncoder:
    """The shapes of the named architecture, which weights to start from must have."""
    special = {}
    if tokenizer is not None:
        size = special_ids(tokenizer).vocab_size
        special = {"vocab_size": size, "bos_id": size - 3, "eos_id": size - 1, "pad_id": size - 2}
    with torch.device("meta"):
        return DualEncoder.create(chosen.architecture, **special | chosen.keywords())


def _new_model(chosen: Model, loss: Loss, tokenizer: str | None, seed: int, *, meta: bool) -> DualEncoder:
    special = {} if tokenizer is None else _special(tokenizer)
    keywords = special | chosen.keywords()
    if chosen.architecture == "hub" and keywords.get("pretrained", True):
        keywords = chosen.keywords()  # a pretrained text tower brings its own vocabulary
    torch.manual_seed(seed)
    with torch.device("meta" if meta and chosen.architecture != "hub" else "cpu"):
        model = DualEncoder.create(
            chosen.architecture,
            learnable_temperature=loss.learnable_temperature,
            with_logit_bias=loss.objective == "sigmoid",
            **keywords,
        )
    with torch.no_grad():
        model.log_scale.fill_(math.log(1 / loss.temperature))
    return model


def _special(tokenizer: str) -> dict[str, Any]:
    ids = special_ids(tokenizer)
    special = {"vocab_size": ids.vocab_size, "bos_id": ids.begin, "eos_id": ids.end, "pad_id": ids.pad}
    if len(set(special.values())) < 4 or None in special.values():
        raise ConfigError("the tokenizer needs its own begin, end and pad tokens for a model from scratch")
    return special


def save_model(tokenizer: ray.ObjectRef, state: TrainState, directory: Path) -> None:
    """The model as a Hugging Face directory."""
    model_of(state).save_pretrained(directory, tokenizer_json=ray.get(tokenizer))


def load_model(state: TrainState, directory: Path) -> None:
    """Weights of a checkpoint of the same architecture."""
    model_of(state).load_weights(directory)


def model_of(state: TrainState) -> DualEncoder:
    """The dual encoder that a state trains."""
    return cast(DualEncoder, state.objective.model)


def anchored(chosen: Model) -> Model:
    """The same model with its local directories by absolute paths: the ranks work in a directory of Ray's."""
    pairs = [argument.partition("=") for argument in chosen.arguments if chosen.architecture == "hub"]
    arguments = tuple(f"{name}{equals}{_absolute(value)}" for name, equals, value in pairs) or chosen.arguments
    return replace(chosen, arguments=arguments, start_from=chosen.start_from and _absolute(chosen.start_from))


def _absolute(name: str) -> str:
    """A directory by its absolute path; the name of a model on the Hub as it is."""
    return os.path.abspath(name) if os.path.isdir(name) else name
