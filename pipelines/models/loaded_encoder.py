"""A trained dual encoder as the files of its checkpoint, which travel to every process that runs it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from xmodal import checkpoint
from xmodal.checkpoint import CheckpointRef
from xmodal.data.decode.fields import Field
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import read_tokenizer
from xmodal.encoders.input_fields import fields_for_model
from xmodal.inference import TRAINING_ONLY
from xmodal.storage import StorageOptions


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """A verified checkpoint of a dual encoder: its files, and how its inputs are decoded."""

    ref: CheckpointRef
    files: dict[str, np.ndarray]  # bytes by name
    fields: Mapping[str, Field]  # what decodes each of its two modalities
    dim: int

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.fields)

    @property
    def reads_text(self) -> bool:
        return "text" in self.fields

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the weights' file, which identifies the weights wherever they are stored."""
        return next(record.sha256 for record in self.ref.files if record.path == "model.safetensors")

    def field_specs(self, given: Sequence[str]) -> tuple[str, ...]:
        """Return the field map to read a corpus by: `given`, or for clips without one that of the training.

        The training's map says which seconds of a clip count. Images and captions are read by the usual names, since a
        held-out corpus may have more captions than the one for training.
        """
        if given or self.reads_text or "run.json" not in self.files:
            return tuple(given)
        return tuple(json.loads(self.files["run.json"].tobytes())["config"]["data"]["fields"])

    def model(self, device: torch.device | str = "cpu") -> DualEncoder:
        """Build the model, in evaluation mode."""
        return encoder_from_files(self.files).eval().to(device)


def load_encoder(uri: str, options: StorageOptions) -> LoadedEncoder:
    """Load the newest valid checkpoint of a run, or the checkpoint named; CheckpointError where there is none."""
    ref = checkpoint.resolve(uri, options=options)
    with TemporaryDirectory(prefix="xmodal-checkpoint-") as scratch:
        directory = checkpoint.fetch(ref, Path(scratch), skip=TRAINING_ONLY, options=options)
        files = read_files(directory)
        model = DualEncoder.from_pretrained(directory)
        fields = {field.name: field for field in fields_for_model(model, read_tokenizer(model.modalities, directory))}
        return LoadedEncoder(ref, files, fields, model.dim)


def read_files(directory: Path) -> dict[str, np.ndarray]:
    """Read the bytes of every file below a directory, by its path there."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def encoder_from_files(files: Mapping[str, np.ndarray]) -> DualEncoder:
    """Build the dual encoder from the files of its directory."""
    with TemporaryDirectory(prefix="xmodal-model-") as scratch:
        for name, data in files.items():
            path = Path(scratch, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.data)
        return DualEncoder.from_pretrained(scratch)
