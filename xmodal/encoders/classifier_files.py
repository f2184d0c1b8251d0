"""A multimodal classifier to and from a directory: config.json describes it, model.safetensors holds the weights.

One encoder alone: `classifier.encoder("audio").backbone.save_pretrained(other)`, which `AutoModel` loads.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from xmodal.encoders.av_inputs import Frames, Spectrogram
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_files import explained
from xmodal.encoders.inputs import Pixels
from xmodal.encoders.multimodal_classifier import Encoder, Intake, MultimodalClassifier
from xmodal.encoders.preprocessing import write_json
from xmodal.encoders.tower import Tower, described
from xmodal.errors import CheckpointError

MODEL_TYPE = "xmodal-multimodal-classifier"
WEIGHTS = "model.safetensors"
INTAKES: Mapping[str, type[Intake]] = {intake.kind: intake for intake in (Pixels, Frames, Spectrogram)}


def save_classifier(model: MultimodalClassifier, classes: tuple[str, ...], directory: Path) -> None:
    """Write both files; `classes` are the names of the scores, in order."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", {"model_type": MODEL_TYPE, "classes": list(classes), **describe(model)})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def load_classifier(directory: Path) -> tuple[MultimodalClassifier, tuple[str, ...]]:
    """The model, in evaluation mode, and its classes; CheckpointError where the directory holds something else."""
    config = read_config(directory)
    encoders = {name: _encoder_of(one) for name, one in config["encoders"].items()}
    classes = tuple(config["classes"])
    model = MultimodalClassifier(encoders, classes=len(classes), fusion_name=config["fusion"], dim=config["dim"])
    take_weights(model, directory)
    return model.eval(), classes


def read_config(directory: Path) -> dict[str, Any]:
    """The description in a directory; CheckpointError where it is none of a multimodal classifier."""
    with explained(str(directory)):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"{directory} holds a model of type {config.get('model_type')!r}, not {MODEL_TYPE}")
    return config


def take_weights(model: MultimodalClassifier, directory: Path) -> None:
    """The weights of a directory of the same architecture; CheckpointError names the first that differs."""
    with explained(str(directory)):
        found = load_file(directory / WEIGHTS)
    expected = model.state_dict()
    for name in sorted(expected.keys() | found.keys()):
        here, there = expected.get(name), found.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = [None if x is None else list(x.shape) for x in (there, here)]
            raise CheckpointError(
                f"{directory} is a checkpoint of another model: {name} is {shapes[0] or 'missing'}, expected "
                f"{shapes[1] or 'nothing'}. Use the architecture and sizes it was saved with"
            )
    model.load_state_dict(found)


def tower_weights(model: MultimodalClassifier, towers: DualEncoder, source: str) -> dict[str, Tensor]:
    """The weights of a dual encoder's towers under the names of the classifier's encoders.

    CheckpointError names the first things in which a tower is no such encoder. Its window and number of frames do not
    matter to convolutions, its head and grid are not taken over.
    """
    missing = [name for name in model.modalities if name not in towers.modalities]
    if missing:
        raise CheckpointError(
            f"{source} pairs {' and '.join(towers.modalities)}: it has no tower for {' and '.join(missing)}. "
            "Start from a run of python -m jobs.pretrain av-tiny"
        )
    differences = [
        f"{name} {what} is {there}, here {here}"
        for name in model.modalities
        for what, here, there in _differences(model.encoder(name), towers.tower(name))
    ]
    if differences:
        raise CheckpointError(f"{source} has other towers: {'; '.join(differences[:3])}. Give the same sizes to both")
    return {
        f"encoders.{name}.backbone.{key}": tensor.detach()
        for name in model.modalities
        for key, tensor in towers.tower(name).backbone.state_dict().items()
    }


CALLED = {"hidden_sizes": "widths", "mean": "level", "std": "level_spread"}  # in the configuration of both
IRRELEVANT = ("grid", "size", "frames", "seconds", "margin")
FROM_WIDTHS = ("depths", "stem_size", "group_size")


def _differences(encoder: Encoder, tower: Tower) -> Iterator[tuple[str, Any, Any]]:
    """What differs between an encoder and a tower, as it is here and there."""
    pairs = (
        (encoder.intake.describe(), tower.intake.describe()),
        (described(encoder.backbone.config), described(tower.backbone.config)),
    )
    for here, there in pairs:
        silent = IRRELEVANT if here.get("hidden_sizes") == there.get("hidden_sizes") else IRRELEVANT + FROM_WIDTHS
        for name in sorted((here.keys() | there.keys()) - set(silent)):
            if here.get(name) != there.get(name):
                yield CALLED.get(name, name), here.get(name), there.get(name)


def describe(model: MultimodalClassifier) -> dict[str, Any]:
    """Everything but the weights, as JSON."""
    encoders = {
        name: {"intake": encoder.intake.describe(), "backbone": described(encoder.backbone.config)}
        for name, encoder in ((name, model.encoder(name)) for name in model.modalities)
    }
    return {"fusion": model.fusion_name, "dim": model.dim, "encoders": encoders}


def _encoder_of(description: Mapping[str, Any]) -> Encoder:
    intake = {name: value for name, value in description["intake"].items() if name != "kind"}
    backbone = AutoModel.from_config(AutoConfig.for_model(**description["backbone"]))
    return Encoder(INTAKES[description["intake"]["kind"]](**intake), backbone)
