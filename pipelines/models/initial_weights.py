"""What a dual encoder begins with: a run, a checkpoint, a Hugging Face directory or a Hub name in; its files out."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.inference.encode import WITHOUT, files_in, model_of_files, tokenizer_of
from xmodal import checkpoint, storage
from xmodal.checkpoint.marker import NAME as MARKER
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import CheckpointError
from xmodal.storage import StorageOptions


@dataclass(frozen=True, eq=False)
class Start:
    """A dual encoder as files, which travel to every rank, and what was found at its place."""

    uri: str  # of the checkpoint that was taken, or the directory or name
    files: dict[str, np.ndarray]
    tokenizer: str | None  # None: it reads no text

    def model(self) -> DualEncoder:
        """The dual encoder with its weights."""
        return model_of_files(self.files)


def start_from(name: str, options: StorageOptions) -> Start:
    """The newest sound checkpoint of a run, the checkpoint named, or the model of a directory or of the Hub.

    CheckpointError where none of these is there, or where it is no dual encoder.
    """
    with TemporaryDirectory(prefix="xmodal-start-") as scratch:
        if _is_model(name):
            model = DualEncoder.from_pretrained(name)
            tokenizer = tokenizer_of(model, Path(name))
            model.save_pretrained(scratch, tokenizer_json=tokenizer)
            return Start(name, files_in(Path(scratch)), tokenizer)
        storage.check(name, writable=False, options=options)
        found = checkpoint.resolve(name, options=options)
        directory = checkpoint.fetch(found, Path(scratch), skip=WITHOUT, options=options)
        try:
            model = DualEncoder.from_pretrained(directory)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(directory), found.uri)) from error
        return Start(found.uri, files_in(directory), tokenizer_of(model, directory))


def anchored(name: str) -> str:
    """A place by its absolute path, since the ranks work in a directory of Ray's; a name on the Hub as it is."""
    return name if _on_hub(name) else storage.absolute(name)


def _is_model(name: str) -> bool:
    """Whether it is a plain Hugging Face directory, or a name on the Hub."""
    here = os.path.isfile(os.path.join(name, "config.json")) and not os.path.isfile(os.path.join(name, MARKER))
    return here or _on_hub(name)


def _on_hub(name: str) -> bool:
    """Whether it can only be ORGANISATION/MODEL; what lies below a folder of this machine is a place there."""
    folder, slash, rest = name.partition("/")
    return bool(slash and folder and rest) and "/" not in rest and ":" not in name and not os.path.exists(folder)
