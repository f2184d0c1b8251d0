"""A directory and the model it was made of in; raises where transformers does not give back what the model gives."""

from collections.abc import Iterator
from contextlib import contextmanager
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
from xmodal.encoders.hub_files import explained, quiet
from xmodal.errors import CheckpointError
from xmodal.export.probe import probe

CAPTIONS = ["a photo of a cat.", "Two red squares above a small blue circle"]
LARGEST_DIFFERENCE = 1e-5  # of a number in a unit vector, and of a normalised pixel


def check_directory(directory: Path, model: DualEncoder, tokenizer_json: str) -> None:
    """CheckpointError names what differs: the processor's pixels, its token ids, or the vectors of either tower."""
    source = str(directory)
    with _errors_only(), quiet(source), explained(source):
        processor: Any = AutoProcessor.from_pretrained(source)
        loaded: Any = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    given = probe(model)
    pictures = [Image.fromarray(row.numpy()) for row in given.batch.fields["image"]]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    _compare("the pixels of the image processor", pixels, given.pixel_values)
    _compare_tokens(processor, model, tokenizer_json)
    with torch.no_grad():
        image = loaded.get_image_features(pixel_values=pixels).pooler_output
        text = loaded.get_text_features(input_ids=given.input_ids, attention_mask=given.attention_mask).pooler_output
    _compare("the image embeddings", F.normalize(image, dim=-1, eps=SMALLEST_NORM), given.image)
    _compare("the text embeddings", F.normalize(text, dim=-1, eps=SMALLEST_NORM), given.text)


def _compare_tokens(processor: Any, model: DualEncoder, tokenizer_json: str) -> None:
    context = model.tower("text").intake.size
    ours, lengths = TextField(tokenizer_json=tokenizer_json, length=context).tokens(CAPTIONS)
    theirs = processor(text=CAPTIONS, padding="max_length", truncation=True, max_length=context, return_tensors="np")
    same = np.array_equal(theirs["input_ids"], ours) and np.array_equal(theirs["attention_mask"].sum(1), lengths)
    if not same:
        raise CheckpointError("transformers' tokenizer gives other ids than the run was trained with")


def _compare(what: str, theirs: Tensor, ours: Tensor) -> None:
    difference = (theirs - ours).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE:
        raise CheckpointError(f"{what} differ by {difference:.2g} between transformers and the model that was trained")


@contextmanager
def _errors_only() -> Iterator[None]:
    """No advice on optional packages while a directory is read."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
