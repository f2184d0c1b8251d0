"""A dual encoder to and from a directory that Hugging Face readers know.

    config.json               `clip` for CLIP-shaped models, which `transformers.CLIPModel` loads;
                              `xmodal-dual-encoder` for all others: the description of each tower
    model.safetensors         the weights, never a pickle
    preprocessor_config.json  how an image becomes pixels
    tokenizer.json, ...       how a caption becomes ids, where the caller gives a tokenizer

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

from xmodal.encoders.clip import clip_config, clip_name, is_clip_shaped, towers_of_clip
from xmodal.encoders.hub_files import explained, file_of, quiet
from xmodal.encoders.input_fields import Intake, intake_of
from xmodal.encoders.inputs import Pixels, Tokens
from xmodal.encoders.preprocessing import (
    copy_tokenizer,
    read_normalisation,
    write_image_processor,
    write_json,
    write_tokenizer,
)
from xmodal.encoders.tower import Tower, freeze_unused, tower_of
from xmodal.errors import CheckpointError

MODEL_TYPE = "xmodal-dual-encoder"
WEIGHTS = "model.safetensors"


def write(model: Any, directory: Path, tokenizer_json: str | None, tokenizer_directory: str | Path | None) -> None:
    """All files of one model; `directory` is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    towers = {modality: model.tower(modality) for modality in model.modalities}
    if is_clip_shaped(towers):
        _write_clip(model, towers, directory)
    else:
        _write_described(model, directory)
    for tower in towers.values():
        if isinstance(tower.intake, Pixels):
            write_image_processor(directory, tower.intake)
        elif isinstance(tower.intake, Tokens) and tokenizer_json is not None:
            write_tokenizer(directory, tokenizer_json, tower.backbone.config, tower.intake.size)
    if tokenizer_directory is not None:
        copy_tokenizer(directory, Path(tokenizer_directory))


def read(source: str) -> dict[str, Any]:
    """The arguments of DualEncoder for the checkpoint in a directory or under a Hub name, weights included."""
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


def intakes_in(config: Mapping[str, Any]) -> dict[str, Intake]:
    """What each tower takes, by a `config.json` that describes its towers; empty for any other, as a CLIP's."""
    towers = config.get("towers") if config.get("model_type") == MODEL_TYPE else None
    return {name: intake_of(tower["intake"]) for name, tower in (towers or {}).items()}


def compare(expected: Any, found: Any, source: str) -> None:
    """Raises CheckpointError naming the first parameters, then settings, in which two dual encoders differ."""
    _refuse(list(_state_differences(expected.state_dict(), found.state_dict())), source)
    compare_descriptions(expected, found, source)


def compare_shapes(expected: Any, found: Any, source: str) -> None:
    """Raises CheckpointError naming the first parameters of the towers whose shapes differ."""
    _refuse(list(_state_differences(expected.towers.state_dict(), found.towers.state_dict())), source)


def compare_descriptions(expected: Any, found: Any, source: str) -> None:
    """Raises CheckpointError naming the first settings in which the towers of two dual encoders differ."""
    _refuse(list(_differences(expected.describe(), found.describe(), "")), source)


def _refuse(differences: list[str], source: str) -> None:
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{source} is a checkpoint of another model: {'; '.join(differences[:3])}{more}. "
            "Use the architecture and sizes it was saved with"
        )


def _state_differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in expected.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name].shape != tensor.shape:
            yield f"{name} is {list(found[name].shape)}, expected {list(tensor.shape)}"
    yield from (f"{name} is not expected" for name in found if name not in expected)


def _differences(expected: dict[str, Any], found: dict[str, Any], path: str) -> Iterator[str]:
    """The leaves of two descriptions that differ: equal shapes may still hide another number of heads."""
    for name in sorted(expected.keys() | found.keys()):
        ours, theirs, here = expected.get(name), found.get(name), f"{path}{name}"
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(ours, theirs, f"{here}.")
        elif ours != theirs:
            yield f"{here} is {theirs!r}, expected {ours!r}"


def _write_clip(model: Any, towers: dict[str, Tower], directory: Path) -> None:
    config = clip_config(towers)
    config.xmodal = {  # CLIPModel has no place for these
        "learnable_temperature": isinstance(model.log_scale, nn.Parameter),
        "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
    }
    config.save_pretrained(directory)
    state = {clip_name(n): t for n, t in model.state_dict().items() if n != "logit_bias"}
    _save(state, directory)


def _read_clip(source: str, config: dict[str, Any]) -> dict[str, Any]:
    with quiet(source), explained(source):
        loaded: Any = CLIPModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    clip, report = loaded
    _refuse_partial(source, report)
    pixels = Pixels("image", size=clip.config.vision_config.image_size, **read_normalisation(source))
    return {
        "towers": towers_of_clip(clip, pixels),
        "log_scale": clip.logit_scale.item(),
        **config.get("xmodal", {}),
    }


def _refuse_partial(source: str, report: Mapping[str, Any]) -> None:
    """CLIPModel leaves what it does not find at random; a checkpoint must be whole."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report[kind]:
            names = ", ".join(str(k) for k in sorted(report[kind])[:3])
            raise CheckpointError(f"{source} does not fit its own config.json: {kind.replace('_', ' ')} {names}")


def _write_described(model: Any, directory: Path) -> None:
    config = {
        "model_type": MODEL_TYPE,
        "learnable_temperature": isinstance(model.log_scale, nn.Parameter),
        "with_logit_bias": model.logit_bias is not None,
        "towers": model.describe(),
    }
    write_json(directory / "config.json", config)
    _save(model.state_dict(), directory)


def _read_described(source: str, config: dict[str, Any]) -> dict[str, Any]:
    with explained(source):
        state = load_file(file_of(source, WEIGHTS))
    towers = {name: tower_of(description) for name, description in config["towers"].items()}
    saved = _as_saved(towers, config)
    _refuse(list(_state_differences(saved.state_dict(), state)), source)
    saved.load_state_dict(state)
    for tower in towers.values():
        freeze_unused(tower)
    return {
        "towers": towers,
        "log_scale": state["log_scale"].item(),
        "learnable_temperature": config["learnable_temperature"],
        "logit_bias": state["logit_bias"].item() if config["with_logit_bias"] else None,
    }


def _as_saved(towers: dict[str, Tower], config: dict[str, Any]) -> nn.Module:
    """A module with the names of the file."""
    module = nn.Module()
    module.towers = nn.ModuleDict(towers)
    module.register_buffer("log_scale", torch.zeros(()))
    if config["with_logit_bias"]:
        module.register_buffer("logit_bias", torch.zeros(()))
    return module


def _save(state: Mapping[str, Tensor], directory: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def _read_config(source: str) -> dict[str, Any]:
    with explained(source):
        return json.loads(file_of(source, "config.json").read_text(encoding="utf-8"))
