"""Saving and loading of a multimodal classifier: config.json describes it, model.safetensors holds the weights.

One encoder alone: `classifier.encoder("audio").backbone.save_pretrained(other)`, which `AutoModel` loads.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_files import reading_errors
from xmodal.encoders.inputs import ImageInput, TextInput
from xmodal.encoders.multimodal_classifier import EncoderInput, ModalityEncoder, MultimodalClassifier
from xmodal.encoders.preprocessing import write_json
from xmodal.encoders.tower import Tower, describe_config
from xmodal.errors import CheckpointError

MODEL_TYPE = "xmodal-multimodal-classifier"
WEIGHTS = "model.safetensors"
ENCODER_INPUTS: Mapping[str, type[EncoderInput]] = {
    input_adapter.kind: input_adapter for input_adapter in (ImageInput, TextInput, VideoInput, AudioInput)
}


def save_classifier(model: MultimodalClassifier, classes: tuple[str, ...], directory: Path) -> None:
    """Write both files; `classes` are the names of the scores, in order."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", {"model_type": MODEL_TYPE, "classes": list(classes), **describe(model)})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def load_classifier(directory: Path) -> tuple[MultimodalClassifier, tuple[str, ...]]:
    """Return the model, in evaluation mode, and its classes; CheckpointError if the directory holds something else."""
    config = read_config(directory)
    encoders = {name: _build_encoder(description) for name, description in config["encoders"].items()}
    classes = tuple(config["classes"])
    model = MultimodalClassifier(encoders, classes=len(classes), fusion_name=config["fusion"], dim=config["dim"])
    load_weights(model, directory)
    return model.eval(), classes


def read_config(directory: Path) -> dict[str, Any]:
    """Return the description in a directory; CheckpointError unless it is that of a multimodal classifier."""
    with reading_errors(str(directory)):
        config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{directory} holds a model of type {config.get('model_type')!r}, not {MODEL_TYPE}")
    return config


def load_weights(model: MultimodalClassifier, directory: Path) -> None:
    """Load the weights of a directory of the same architecture; CheckpointError names the first difference."""
    with reading_errors(str(directory)):
        saved = load_file(directory / WEIGHTS)
    expected = model.state_dict()
    for name in sorted(expected.keys() | saved.keys()):
        expected_tensor, saved_tensor = expected.get(name), saved.get(name)
        if expected_tensor is None or saved_tensor is None or expected_tensor.shape != saved_tensor.shape:
            shapes = [None if x is None else list(x.shape) for x in (saved_tensor, expected_tensor)]
            raise CheckpointError(
                f"{directory} is a checkpoint of another model: {name} is {shapes[0] or 'missing'}, expected "
                f"{shapes[1] or 'nothing'}. Use the architecture and sizes it was saved with"
            )
    model.load_state_dict(saved)


def tower_weights(model: MultimodalClassifier, towers: DualEncoder, source: str) -> dict[str, Tensor]:
    """Return the weights of a dual encoder's towers under the names of the classifier's encoders.

    CheckpointError names the first differences between a tower and an encoder. The time span and number of frames do
    not matter to convolutions; head and grid are not taken over.
    """
    missing = [name for name in model.modalities if name not in towers.modalities]
    if missing:
        raise CheckpointError(
            f"{source} pairs {' and '.join(towers.modalities)}: it has no tower for {' and '.join(missing)}. "
            "Start from a run of python -m jobs.pretrain av-tiny"
        )
    differences = [
        f"{name} {setting} is {tower_value}, here {encoder_value}"
        for name in model.modalities
        for setting, encoder_value, tower_value in _differences(model.encoder(name), towers.tower(name))
    ]
    if differences:
        raise CheckpointError(f"{source} has other towers: {'; '.join(differences[:3])}. Give the same sizes to both")
    return {
        f"encoders.{name}.backbone.{key}": tensor.detach()
        for name in model.modalities
        for key, tensor in towers.tower(name).backbone.state_dict().items()
    }


OPTION_NAMES = {"hidden_sizes": "widths", "mean": "level", "std": "level_spread"}  # what a user calls these settings
IRRELEVANT = ("grid", "size", "frames", "seconds", "margin")
FROM_WIDTHS = ("depths", "stem_size", "group_size")


def _differences(encoder: ModalityEncoder, tower: Tower) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings in which an encoder and a tower differ: name, value here, value there."""
    pairs = (
        (encoder.input_adapter.describe(), tower.input_adapter.describe()),
        (describe_config(encoder.backbone.config), describe_config(tower.backbone.config)),
    )
    for encoder_settings, tower_settings in pairs:
        ignored = (
            IRRELEVANT
            if encoder_settings.get("hidden_sizes") == tower_settings.get("hidden_sizes")
            else IRRELEVANT + FROM_WIDTHS
        )
        for name in sorted((encoder_settings.keys() | tower_settings.keys()) - set(ignored)):
            if encoder_settings.get(name) != tower_settings.get(name):
                yield OPTION_NAMES.get(name, name), encoder_settings.get(name), tower_settings.get(name)


def describe(model: MultimodalClassifier) -> dict[str, Any]:
    """Return everything but the weights, as JSON."""
    encoders = {
        name: {"intake": encoder.input_adapter.describe(), "backbone": describe_config(encoder.backbone.config)}
        for name, encoder in ((name, model.encoder(name)) for name in model.modalities)
    }
    return {"fusion": model.fusion_name, "dim": model.dim, "encoders": encoders}


def _build_encoder(description: Mapping[str, Any]) -> ModalityEncoder:
    """Build an encoder with new weights from its description."""
    arguments = {name: value for name, value in description["intake"].items() if name != "kind"}
    backbone = AutoModel.from_config(AutoConfig.for_model(**description["backbone"]))
    return ModalityEncoder(ENCODER_INPUTS[description["intake"]["kind"]](**arguments), backbone)
