"""Build the label predictor of an adaptation, what decodes its labels, and its file in a checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from pipelines.config.data import DataConfig
from pipelines.config.label_head import LabelHeadConfig
from xmodal import storage
from xmodal.data.decode.fields import FieldMap, parse_field_map
from xmodal.data.decode.label import LabelField
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import Corpus
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import CheckpointError, ConfigError
from xmodal.storage import NotFound, StorageOptions
from xmodal.training.objectives.label_predictor import LabelPredictor

FILE = "label_predictor.safetensors"  # in a checkpoint, not in an exported model


def read_class_names(config: LabelHeadConfig, options: StorageOptions) -> tuple[str, ...]:
    """Return the names of the classes: those given, or the lines of a file where one file is given."""
    if len(config.classes) != 1:
        return config.classes
    try:
        lines = storage.read(config.classes[0], options=options).decode("utf-8-sig").splitlines()
    except NotFound as error:
        raise ConfigError(f"--label.classes {config.classes[0]}: no such file, and one class is none") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{config.classes[0]} is no text in UTF-8 ({error})") from error
    return tuple(line.strip() for line in lines if line.strip())


def build_label_predictor(config: LabelHeadConfig, model: DualEncoder, seed: int) -> LabelPredictor | None:
    """Build the head at step 0, drawn from the seed; None without a label. ConfigError for a wrong modality."""
    if config.field is None:
        return None
    modality = config.modality or model.modalities[0]
    if modality not in model.modalities:
        raise ConfigError(f"label.modality={modality}: the model has {' and '.join(model.modalities)}")
    torch.manual_seed(seed)
    return LabelPredictor(modality, model.dim, len(label_field(config).classes), weight=config.weight)


def label_field(config: LabelHeadConfig) -> LabelField:
    """Return what decodes a row's class; -1 where it has none."""
    return LabelField(classes=config.classes, optional=True)


def field_map_with_label(config: LabelHeadConfig, corpus: Corpus, data: DataConfig, names: tuple[str, ...]) -> FieldMap:
    """Return the field map of a corpus; with the field of the class where there is a label."""
    mapping = field_maps.field_map(corpus, data.fields, names)
    if config.field is None:
        return mapping
    label = parse_field_map((f"label={config.field}",))
    label.check(field_maps.available_fields(corpus))
    return FieldMap({**mapping.sources, **label.sources})


def save_label_predictor(predictor: LabelPredictor, classes: tuple[str, ...], directory: Path) -> None:
    """Write the head with the names of its classes into a checkpoint's directory."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in predictor.head.state_dict().items()}
    save_file(tensors, directory / FILE, metadata={"classes": json.dumps(classes), "modality": predictor.modality})


def load_label_predictor(predictor: LabelPredictor, directory: Path) -> None:
    """Read the head of a checkpoint; CheckpointError where it is of other sizes, or is not there."""
    try:
        predictor.head.load_state_dict(load_file(directory / FILE))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{directory.name}: its label predictor is not that of this run ({error})") from error


@dataclass(frozen=True, eq=False)
class LoadedLabelHead:
    """A trained label predictor, for evaluation."""

    modality: str
    classes: tuple[str, ...]
    weight: Tensor  # [C, D]
    bias: Tensor  # [C]

    def predict(self, rows: np.ndarray) -> list[str]:
        """Return the class of each embedding."""
        scores = torch.from_numpy(rows) @ self.weight.T + self.bias
        return [self.classes[number] for number in scores.argmax(1).tolist()]


def label_head_in(files: Mapping[str, np.ndarray]) -> LoadedLabelHead | None:
    """Return the label predictor among the files of a checkpoint; None where it has none."""
    if FILE not in files:
        return None
    data = files[FILE].tobytes()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return LoadedLabelHead(metadata["modality"], tuple(json.loads(metadata["classes"])), **load(data))
