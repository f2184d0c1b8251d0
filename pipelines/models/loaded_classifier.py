"""A trained multimodal classifier with what decodes its inputs, as the jobs that measure it need it."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pipelines.config.classifier import ClassifierConfig
from pipelines.models.classifier import decoded_fields
from xmodal import checkpoint, storage
from xmodal.checkpoint import CheckpointRef
from xmodal.data.index.corpus import Corpus
from xmodal.data.index.field_maps import field_map
from xmodal.data.stream.blocks import RowDecoder
from xmodal.encoders.classifier_files import MODEL_TYPE, load_classifier
from xmodal.encoders.hub_tokenizer import read_tokenizer
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.inference import TRAINING_ONLY
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class LoadedClassifier:
    """A classifier on the device, in evaluation mode, with the names of its classes and its run's configuration."""

    model: MultimodalClassifier
    classes: tuple[str, ...]
    config: dict[str, Any]
    tokenizer: str | None = None  # of a text encoder

    def decoder(self, corpus: Corpus, fields: tuple[str, ...]) -> RowDecoder:
        """Return what decodes a corpus for this model, each clip by the middle of its window.

        `fields` is the field map of the corpus; empty: that of the training.
        """
        specs = fields or tuple(self.config["data"]["fields"])
        settings = ClassifierConfig(**{name: _as_tuple(value) for name, value in self.config["model"].items()})
        return RowDecoder(field_map(corpus, specs, settings.fields), decoded_fields(settings, None, self.tokenizer))


def fetch_classifier(ref: CheckpointRef, options: StorageOptions) -> LoadedClassifier:
    """Fetch a checkpoint and load its classifier on the GPU, or the CPU where there is none."""
    with TemporaryDirectory(prefix="xmodal-classifier-") as scratch:
        directory = checkpoint.fetch(ref, Path(scratch), skip=TRAINING_ONLY, options=options)
        model, classes = load_classifier(directory)
        config = json.loads((directory / "run.json").read_text())["config"]
        tokenizer = read_tokenizer(model.modalities, directory)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedClassifier(model=model.to(device), classes=classes, config=config, tokenizer=tokenizer)


def is_classifier(ref: CheckpointRef, options: StorageOptions) -> bool:
    """Return whether a checkpoint holds a multimodal classifier."""
    config = json.loads(storage.read(storage.join(ref.uri, "config.json"), options=options))
    return config.get("model_type") == MODEL_TYPE


def _as_tuple(value: object) -> Any:
    """Turn a list of the stored configuration into the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value
