"""Load a trained dual encoder and embed images, captions or clips with it."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from xmodal import checkpoint, storage
from xmodal.batch import Batch
from xmodal.checkpoint.marker import NAME as MARKER
from xmodal.data.decode.fields import Field, allocate_columns, row_views
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import read_tokenizer
from xmodal.encoders.input_fields import fields_for_model
from xmodal.errors import BadSample, CheckpointError, ConfigError, nearest
from xmodal.storage import StorageOptions

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
TRAINING_ONLY = ("optimizer.safetensors", "critics.safetensors", "state.json", "quarantine.parquet")


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """A dual encoder that embeds files, PIL images and strings as unit vectors.

    Every method runs without gradients, in evaluation mode, `batch_size` inputs at a time on the model's device, and
    returns float32 tensors on the CPU. The model itself is `model`, to train further or to export.
    """

    model: DualEncoder
    fields: Mapping[str, Field]  # what decodes an input, by modality
    source: str  # the checkpoint, directory or Hub name that was loaded
    batch_size: int = 64

    @property
    def dim(self) -> int:
        """D, the width of the shared space."""
        return self.model.dim

    def encode_images(self, images: Sequence[str | Path | bytes | Image.Image]) -> Float[Tensor, "B D"]:
        """Embed images given as paths, URIs, encoded bytes or PIL images. ConfigError names one that is no image."""
        return self.encode("image", images)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embed captions; longer ones than the model's context are cut. ConfigError names one that is empty."""
        return self.encode("text", texts)

    def similarity(
        self, images: Sequence[str | Path | bytes | Image.Image], texts: Sequence[str]
    ) -> Float[Tensor, "I T"]:
        """Return the cosine of every image with every caption, in [-1, 1]."""
        return self.encode_images(images) @ self.encode_texts(texts).T

    def encode(self, modality: str, inputs: Sequence[Any]) -> Float[Tensor, "B D"]:
        """Embed inputs of one modality of the model: `image`, `text`, `video` or `audio`.

        Videos and sounds are paths, URIs or encoded bytes. A single path or string is refused, since a string is a
        sequence, too.
        """
        if modality not in self.fields:
            raise ConfigError(f"{self.source} has no tower for {modality!r}; {nearest(modality, self.fields)}")
        if isinstance(inputs, str | bytes | Path) or not isinstance(inputs, Sequence):
            raise ConfigError(f"encode({modality!r}) takes a list of inputs, not one {type(inputs).__name__}")
        vectors = [self._embed(modality, start, inputs) for start in range(0, len(inputs), self.batch_size)]
        return torch.cat(vectors) if vectors else torch.empty(0, self.dim)

    @torch.inference_mode()
    def _embed(self, modality: str, start: int, inputs: Sequence[object]) -> Tensor:
        """Embed the inputs of one batch, the first of which is number `start`."""
        chosen = inputs[start : start + self.batch_size]
        field = self.fields[modality]
        columns = allocate_columns((field,), len(chosen))
        generator = np.random.default_rng(0)  # evaluation draws nothing from it
        for row, value in enumerate(chosen):
            try:
                field.decode(_decoder_input(modality, value), generator, row_views(columns, row))
            except BadSample as error:
                raise ConfigError(f"{modality} {start + row} ({_named(value)}): {error}") from error
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        batch = Batch(torch.arange(len(chosen)), torch.ones(len(chosen), dtype=torch.bool), tensors)
        device = next(self.model.parameters()).device
        return self.model.encode(modality, batch.to(device)).float().cpu()


def load(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    options: StorageOptions | None = None,
) -> EmbeddingModel:
    """Load a dual encoder with its tokenizer, ready to embed.

    `source` is a run (the newest checkpoint that verifies is taken), one of its checkpoints, a directory that
    `save_pretrained` or `jobs.export` wrote, or the Hub name of a CLIP; runs and checkpoints may lie on S3, which
    `options` says how to reach. CheckpointError where there is no such model.

    >>> import xmodal
    >>> model = xmodal.load("runs/vit-tiny")                                         # doctest: +SKIP
    >>> model.similarity(["cat.jpg", "dog.jpg"], ["a cat", "a dog"]).argmax(dim=1)   # doctest: +SKIP
    tensor([0, 1])
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
    with TemporaryDirectory(prefix="xmodal-load-") as scratch:
        model, directory, uri = load_model(os.fspath(source), Path(scratch), options or StorageOptions())
        tokenizer = read_tokenizer(model.modalities, directory)
    fields = {field.name: field for field in fields_for_model(model, tokenizer)}
    return EmbeddingModel(model.eval().to(device), fields, uri, batch_size)


def load_model(name: str, scratch: Path, options: StorageOptions) -> tuple[DualEncoder, str, str]:
    """Load a dual encoder as `load` does; return it, where its files are (a Hub name, too), and its URI or name.

    A checkpoint is copied into `scratch`.
    """
    if is_model(name):
        return DualEncoder.from_pretrained(name), name, name
    return load_checkpoint(name, scratch, options)


def load_checkpoint(name: str, scratch: Path, options: StorageOptions) -> tuple[DualEncoder, str, str]:
    """Load the dual encoder of a run's newest valid checkpoint, or of the one named; the result is as of `load_model`.

    The checkpoint is copied into `scratch`; errors name its URI, not the copy.
    """
    storage.check(name, writable=False, options=options)
    newest = checkpoint.resolve(name, options=options)
    directory = str(checkpoint.fetch(newest, scratch, skip=TRAINING_ONLY, options=options))
    try:
        return DualEncoder.from_pretrained(directory), directory, newest.uri
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(directory, newest.uri)) from error


def is_model(name: str) -> bool:
    """Return whether `name` is a plain Hugging Face directory or a name on the Hub, not a run or a checkpoint."""
    is_directory = os.path.isfile(os.path.join(name, "config.json"))
    return (is_directory and not os.path.isfile(os.path.join(name, MARKER))) or is_hub_name(name)


def is_hub_name(name: str) -> bool:
    """Return whether `name` can only be ORGANISATION/MODEL; what lies below a local folder is a path."""
    folder, slash, rest = name.partition("/")
    return bool(slash and folder and rest) and "/" not in rest and ":" not in name and not os.path.exists(folder)


def _decoder_input(modality: str, value: object) -> object:
    """What a field decodes: the caption itself, the bytes of a file, or a PIL image as PNG without loss."""
    if modality == "text" or isinstance(value, bytes | bytearray | memoryview):
        return value
    if isinstance(value, str | Path):
        return storage.read(os.fspath(value))
    return _png(value) if isinstance(value, Image.Image) else value


def _png(image: Image.Image) -> bytes:
    """Encode a PIL image without loss, upright, in a mode that PNG can hold."""
    upright = ImageOps.exif_transpose(image)
    stream = io.BytesIO()
    (upright if upright.mode in PNG_MODES else upright.convert("RGB")).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def _named(value: Any) -> str:
    """An input as an error names it."""
    return repr(os.fspath(value)) if isinstance(value, str | Path) else type(value).__name__
