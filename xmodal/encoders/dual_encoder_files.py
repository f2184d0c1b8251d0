"""Saving and loading of a dual encoder in a directory that Hugging Face readers understand.

    config.json               `clip` for CLIP-shaped models, which `transformers.CLIPModel` loads;
                              `xmodal-dual-encoder` for all others: the description of each tower
    model.safetensors         the weights, never a pickle
    preprocessor_config.json  how an image becomes pixels
    tokenizer.json, ...       how a caption becomes ids, if the caller gives a tokenizer

One tower of any model alone: `DualEncoder.from_pretrained(directory).tower("text").backbone.save_pretrained(other)`,
which `AutoModel.from_pretrained(other)` loads.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel

from xmodal.encoders.clip import clip_config, clip_name, is_clip_shaped, towers_from_clip
from xmodal.encoders.hub_files import cached_path, reading_errors, without_progress_bar
from xmodal.encoders.input_fields import build_input_adapter
from xmodal.encoders.inputs import ImageInput, InputAdapter, TextInput
from xmodal.encoders.preprocessing import (
    copy_tokenizer,
    read_normalisation,
    write_image_processor,
    write_json,
    write_tokenizer,
)
from xmodal.encoders.tower import Tower, build_tower, freeze_unused_parameters
from xmodal.errors import CheckpointError

MODEL_TYPE = "xmodal-dual-encoder"
WEIGHTS = "model.safetensors"


def write(model: Any, directory: Path, tokenizer_json: str | None, tokenizer_directory: str | Path | None) -> None:
    """Write all files of one model; `directory` is created if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    towers = {modality: model.tower(modality) for modality in model.modalities}
    if is_clip_shaped(towers):
        _write_clip(model, towers, directory)
    else:
        _write_described(model, directory)
    for tower in towers.values():
        if isinstance(tower.input_adapter, ImageInput):
            write_image_processor(directory, tower.input_adapter)
        elif isinstance(tower.input_adapter, TextInput) and tokenizer_json is not None:
            write_tokenizer(directory, tokenizer_json, tower.backbone.config, tower.input_adapter.size)
    if tokenizer_directory is not None:
        copy_tokenizer(directory, Path(tokenizer_directory))


def read(source: str) -> dict[str, Any]:
    """Return the arguments of DualEncoder for the checkpoint in a directory or under a Hub name, weights included."""
    config = _read_config(source)
    kind = config.get("model_type")
    if kind == "clip":
        return _read_clip(source, config)
    if kind == MODEL_TYPE:
        return _read_described(source, config)
    raise CheckpointError(
        f"{source} holds a model of type {kind!r}, not a dual encoder (clip, {MODEL_TYPE}): "
        "start a tower from it with the architecture 'hub'"
    )


def input_adapters_in(config: Mapping[str, Any]) -> dict[str, InputAdapter]:
    """Return the input adapter of each tower that a `config.json` describes; empty for any other, as a CLIP's."""
    towers = config.get("towers") if config.get("model_type") == MODEL_TYPE else None
    return {name: build_input_adapter(tower["intake"]) for name, tower in (towers or {}).items()}


def compare(expected: Any, actual: Any, source: str) -> None:
    """Raise CheckpointError naming the first parameters, then settings, in which two dual encoders differ."""
    _raise_differences(list(_state_differences(expected.state_dict(), actual.state_dict())), source)
    compare_descriptions(expected, actual, source)


def compare_shapes(expected: Any, actual: Any, source: str) -> None:
    """Raise CheckpointError naming the first parameters of the towers whose shapes differ."""
    _raise_differences(list(_state_differences(expected.towers.state_dict(), actual.towers.state_dict())), source)


def compare_descriptions(expected: Any, actual: Any, source: str) -> None:
    """Raise CheckpointError naming the first settings in which the towers of two dual encoders differ."""
    _raise_differences(list(_differences(expected.describe(), actual.describe(), "")), source)


def _raise_differences(differences: list[str], source: str) -> None:
    """Raise CheckpointError with the first three differences, if there are any."""
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{source} is a checkpoint of another model: {'; '.join(differences[:3])}{more}. "
            "Use the architecture and sizes it was saved with"
        )


def _state_differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the parameters that are missing, unexpected, or of another shape."""
    for name, tensor in expected.items():
        if name not in actual:
            yield f"{name} is missing"
        elif actual[name].shape != tensor.shape:
            yield f"{name} is {list(actual[name].shape)}, expected {list(tensor.shape)}"
    yield from (f"{name} is not expected" for name in actual if name not in expected)


def _differences(expected: dict[str, Any], actual: dict[str, Any], path: str) -> Iterator[str]:
    """Yield the leaves in which two descriptions differ: equal shapes may still hide another number of heads."""
    for name in sorted(expected.keys() | actual.keys()):
        expected_value, actual_value, name_path = expected.get(name), actual.get(name), f"{path}{name}"
        if isinstance(expected_value, dict) and isinstance(actual_value, dict):
            yield from _differences(expected_value, actual_value, f"{name_path}.")
        elif expected_value != actual_value:
            yield f"{name_path} is {actual_value!r}, expected {expected_value!r}"


def _write_clip(model: Any, towers: dict[str, Tower], directory: Path) -> None:
    """Write the files of a CLIP-shaped model."""
    config = clip_config(towers)
    config.xmodal = {  # CLIPModel has no place for these
        "learnable_temperature": isinstance(model.log_scale, nn.Parameter),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
    }
    config.save_pretrained(directory)
    state = {clip_name(n): t for n, t in model.state_dict().items() if n != "logit_bias"}
    _save(state, directory)


def _read_clip(source: str, config: dict[str, Any]) -> dict[str, object]:
    """Return the arguments of DualEncoder for a CLIP."""
    with without_progress_bar(source), reading_errors(source):
        loaded: Any = CLIPModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    clip, report = loaded
    _raise_incomplete(source, report)
    image_input = ImageInput("image", size=clip.config.vision_config.image_size, **read_normalisation(source))
    return {
        "towers": towers_from_clip(clip, image_input),
        "log_scale": clip.logit_scale.item(),
        **config.get("xmodal", {}),
    }


def _raise_incomplete(source: str, report: Mapping[str, Any]) -> None:
    """Raise CheckpointError for an incomplete checkpoint: CLIPModel initialises missing parameters at random."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report[kind]:
            names = ", ".join(str(k) for k in sorted(report[kind])[:3])
            raise CheckpointError(f"{source} does not fit its own config.json: {kind.replace('_', ' ')} {names}")


def _write_described(model: Any, directory: Path) -> None:
    """Write the files of a model that is not CLIP-shaped."""
    config = {
        "model_type": MODEL_TYPE,
        "learnable_temperature": isinstance(model.log_scale, nn.Parameter),
        "with_logit_bias": model.logit_bias is not None,
        "towers": model.describe(),
    }
    write_json(directory / "config.json", config)
    _save(model.state_dict(), directory)


def _read_described(source: str, config: dict[str, Any]) -> dict[str, object]:
    """Return the arguments of DualEncoder for a directory that describes its towers."""
    with reading_errors(source):
        state = load_file(cached_path(source, WEIGHTS))
    towers = {name: build_tower(description) for name, description in config["towers"].items()}
    saved = _saved_module(towers, config)
    _raise_differences(list(_state_differences(saved.state_dict(), state)), source)
    saved.load_state_dict(state)
    for tower in towers.values():
        freeze_unused_parameters(tower)
    return {
        "towers": towers,
        "log_scale": state["log_scale"].item(),
        "learnable_temperature": config["learnable_temperature"],
        "logit_bias": state["logit_bias"].item() if config["with_logit_bias"] else None,
    }


def _saved_module(towers: dict[str, Tower], config: dict[str, Any]) -> nn.Module:
    """Return a module whose state has the names of the file."""
    module = nn.Module()
    module.towers = nn.ModuleDict(towers)
    module.register_buffer("log_scale", torch.zeros(()))
    if config["with_logit_bias"]:
        module.register_buffer("logit_bias", torch.zeros(()))
    return module


def _save(state: Mapping[str, Tensor], directory: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def _read_config(source: str) -> dict[str, object]:
    with reading_errors(source):
        config: dict[str, Any] = json.loads(cached_path(source, "config.json").read_text(encoding="utf-8"))
    return config
