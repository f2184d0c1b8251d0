"""A configuration of labels in, the head that predicts them out; its field, its names, and its file in a checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from pipelines.config.data import Data
from pipelines.config.label_head import Label
from pipelines.stream import corpora
from xmodal import storage
from xmodal.data.decode.fields import FieldMap, parse_field_map
from xmodal.data.decode.label import LabelField
from xmodal.data.index.corpus import Corpus
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import CheckpointError, ConfigError
from xmodal.storage import NotFound, StorageOptions
from xmodal.training.objectives.label_predictor import LabelPredictor

FILE = "label_predictor.safetensors"  # in a checkpoint, not in an exported model


def named(chosen: Label, options: StorageOptions) -> tuple[str, ...]:
    """The names of the classes: as given, or the lines of the one file that is named."""
    if len(chosen.classes) != 1:
        return chosen.classes
    try:
        lines = storage.read(chosen.classes[0], options=options).decode("utf-8-sig").splitlines()
    except NotFound as error:
        raise ConfigError(f"--label.classes {chosen.classes[0]}: no such file, and one class is none") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{chosen.classes[0]} is no text in UTF-8 ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def build(chosen: Label, model: DualEncoder, seed: int) -> LabelPredictor | None:
    """The head at step 0, drawn from the seed; None where no label is asked for. ConfigError for a wrong modality."""
    if chosen.field is None:
        return None
    modality = chosen.modality or model.modalities[0]
    if modality not in model.modalities:
        raise ConfigError(f"label.modality={modality}: the model has {' and '.join(model.modalities)}")
    torch.manual_seed(seed)
    return LabelPredictor(modality, model.dim, len(field_of(chosen).classes), weight=chosen.weight)


def field_of(chosen: Label) -> LabelField:
    """What decodes a row's class; -1 where it has none."""
    return LabelField(classes=chosen.classes, optional=True)


def with_label(chosen: Label, corpus: Corpus, data: Data, names: tuple[str, ...]) -> FieldMap:
    """The field map of a corpus, and the place of the class where one is asked for."""
    found = corpora.field_map(corpus, data.fields, names)
    if chosen.field is None:
        return found
    label = parse_field_map((f"label={chosen.field}",))
    label.check(corpora.available(corpus))
    return FieldMap({**found.sources, **label.sources})


def save(predictor: LabelPredictor, classes: tuple[str, ...], directory: Path) -> None:
    tensors = {name: x.detach().cpu().contiguous() for name, x in predictor.head.state_dict().items()}
    save_file(tensors, directory / FILE, metadata={"classes": json.dumps(classes), "modality": predictor.modality})


def restore(predictor: LabelPredictor, directory: Path) -> None:
    """CheckpointError where the head is of other sizes, or is not there."""
    try:
        predictor.head.load_state_dict(load_file(directory / FILE))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{directory.name}: its label predictor is not that of this run ({error})") from error


@dataclass(frozen=True, eq=False)
class Head:
    """A trained label predictor: what `jobs.evaluate` needs of it."""

    modality: str
    classes: tuple[str, ...]
    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def predict(self, rows: np.ndarray) -> list[str]:
        """The class of each embedding."""
        scores = torch.from_numpy(rows) @ self.weight.T + self.bias
        return [self.classes[number] for number in scores.argmax(1).tolist()]


def head_in(files: Mapping[str, np.ndarray]) -> Head | None:
    """The label predictor among the files of a checkpoint, if it has one."""
    if FILE not in files:
        return None
    data = files[FILE].tobytes()
    length = int.from_bytes(data[:8], "little")
    said = json.loads(data[8 : 8 + length])["__metadata__"]
    return Head(said["modality"], tuple(json.loads(said["classes"])), **load(data))
