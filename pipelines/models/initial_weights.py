"""What a dual encoder begins with: the files of a run's checkpoint, of a Hugging Face directory, or of a Hub name."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.models.loaded_encoder import encoder_from_files, read_files
from xmodal import storage
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import read_tokenizer
from xmodal.inference import is_hub_name, is_model, load_model
from xmodal.storage import StorageOptions


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """A dual encoder as files, which travel to every rank."""

    uri: str  # of the checkpoint that was taken, or the directory or Hub name
    files: dict[str, np.ndarray]  # bytes by name
    tokenizer: str | None  # as JSON; None: the model reads no text

    def model(self) -> DualEncoder:
        """Build the dual encoder with its weights."""
        return encoder_from_files(self.files)


def load_initial_weights(name: str, options: StorageOptions) -> InitialWeights:
    """Load the newest valid checkpoint of a run, the checkpoint named, or the model of a directory or of the Hub.

    CheckpointError where none of these is there, or where it is no dual encoder.
    """
    with TemporaryDirectory(prefix="xmodal-start-") as scratch:
        model, directory, uri = load_model(name, Path(scratch), options)
        tokenizer = read_tokenizer(model.modalities, directory)
        if is_model(name):
            model.save_pretrained(scratch, tokenizer_json=tokenizer)
            directory = scratch
        return InitialWeights(uri, read_files(Path(directory)), tokenizer)


def absolute_start(name: str) -> str:
    """Return a location as an absolute path, since the ranks have another working directory; a Hub name as it is."""
    return name if is_hub_name(name) else storage.absolute(name)
