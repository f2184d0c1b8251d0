"""Check that transformers, given an exported directory, reproduces the embeddings of the model that was exported."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

from xmodal.data.decode.text import TextField
from xmodal.encoders.dual_encoder import SMALLEST_NORM, DualEncoder
from xmodal.encoders.hub_files import reading_errors, without_progress_bar
from xmodal.errors import CheckpointError
from xmodal.export.probe import probe_batch

CAPTIONS = ["a photo of a cat.", "Two red squares above a small blue circle"]
MAX_DIFFERENCE = 1e-5  # of an element of a unit vector, and of a normalised pixel


def check_directory(directory: Path, model: DualEncoder, tokenizer_json: str) -> None:
    """Compare the directory's processor and model, as transformers loads them, with `model`.

    CheckpointError names what differs: the processor's pixels, its token ids, or the embeddings of either tower.
    """
    source = str(directory)
    with _transformers_errors_only(), without_progress_bar(source), reading_errors(source):
        auto_processor: Any = AutoProcessor  # it has no annotations
        processor = auto_processor.from_pretrained(source)
        loaded: Any = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    probe = probe_batch(model)
    images = [Image.fromarray(row.numpy()) for row in probe.batch.fields["image"]]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    _compare("the pixels of the image processor", pixels, probe.pixel_values)
    _compare_tokens(processor, model, tokenizer_json)
    with torch.no_grad():
        image = loaded.get_image_features(pixel_values=pixels).pooler_output
        text = loaded.get_text_features(input_ids=probe.input_ids, attention_mask=probe.attention_mask).pooler_output
    _compare("the image embeddings", F.normalize(image, dim=-1, eps=SMALLEST_NORM), probe.image)
    _compare("the text embeddings", F.normalize(text, dim=-1, eps=SMALLEST_NORM), probe.text)


def _compare_tokens(processor: Any, model: DualEncoder, tokenizer_json: str) -> None:
    context = model.tower("text").input_adapter.size
    ours, lengths = TextField(tokenizer_json=tokenizer_json, length=context).tokenize(CAPTIONS)
    theirs = processor(text=CAPTIONS, padding="max_length", truncation=True, max_length=context, return_tensors="np")
    same = np.array_equal(theirs["input_ids"], ours) and np.array_equal(theirs["attention_mask"].sum(1), lengths)
    if not same:
        raise CheckpointError("transformers' tokenizer gives other ids than the run was trained with")


def _compare(name: str, theirs: Tensor, ours: Tensor) -> None:
    difference = (theirs - ours).abs().max().item()
    if not difference <= MAX_DIFFERENCE:
        raise CheckpointError(f"{name} differ by {difference:.2g} between transformers and the model that was trained")


@contextmanager
def _transformers_errors_only() -> Iterator[None]:
    """Silence the advice on optional packages that transformers logs while it reads a directory."""
    level = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
