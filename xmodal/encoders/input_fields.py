"""What the towers of a model take of a batch, by their descriptions; and the fields that decode rows into it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from xmodal.batch import Batch
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import Field, allocate, row_of
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.media.audio import AudioField
from xmodal.data.media.clip_window import Window
from xmodal.data.media.mel import Mel
from xmodal.data.media.video import VideoField
from xmodal.encoders.av_inputs import Frames, Spectrogram
from xmodal.encoders.inputs import Pixels, Tokens
from xmodal.errors import CheckpointError, ConfigError

Intake = Pixels | Tokens | Frames | Spectrogram
INTAKES: Mapping[str, type[Intake]] = {kind.kind: kind for kind in (Pixels, Tokens, Frames, Spectrogram)}


def intake_of(description: Mapping[str, Any]) -> Intake:
    """The intake that `describe` described; CheckpointError for a kind that is not known."""
    arguments = {name: value for name, value in description.items() if name != "kind"}
    if description.get("kind") not in INTAKES:
        raise CheckpointError(f"a tower that takes {description.get('kind')!r} is not known: update xmodal")
    return INTAKES[description["kind"]](**arguments)


def fields_of(model: Any, tokenizer_json: str | None = None, augment: Augment | None = None) -> tuple[Field, ...]:
    """`field_of` for each modality of a dual encoder, in their order."""
    return tuple(field_of(model.tower(name).intake, tokenizer_json, augment) for name in model.modalities)


def decoded(fields: Sequence[Field], rows: Sequence[Mapping[str, Any]]) -> Batch:
    """A batch of encoded rows, each with the bytes (or the caption) of every field by its name.

    BadSample where one cannot be decoded.
    """
    block, random = allocate(fields, len(rows)), np.random.default_rng(0)
    for place, row in enumerate(rows):
        for field in fields:
            field.decode(row[field.name], random, row_of(block, place))
    columns = {name: torch.from_numpy(column) for name, column in block.items()}
    return Batch(torch.arange(len(rows)), torch.ones(len(rows), dtype=torch.bool), columns)


def field_of(intake: Intake, tokenizer_json: str | None, augment: Augment | None = None) -> Field:
    """What decodes a row into what `intake` takes: as at an evaluation, or with `augment` as in training.

    With `augment` the window of a clip is drawn, equal for its pictures and its sound; without, it lies in the middle.
    ConfigError where an intake of text comes without a tokenizer, or one of clips without the seconds it takes.
    """
    if isinstance(intake, Pixels):
        return ImageField(size=intake.size, augment=augment, name=intake.field)
    if isinstance(intake, Tokens):
        if tokenizer_json is None:
            raise ConfigError("a model that reads text needs its tokenizer")
        return TextField(tokenizer_json=tokenizer_json, length=intake.size, name=intake.field)
    if intake.seconds is None:
        raise ConfigError(f"the {intake.field} tower does not say how many seconds of a clip it takes")
    window = Window(seconds=intake.seconds, place="random" if augment else "centre", margin=intake.margin)
    if isinstance(intake, Frames):
        return VideoField(frames=intake.frames, size=intake.size, window=window, augment=augment, name=intake.field)
    return AudioField(rate=intake.rate, window=window, mel=Mel(bands=intake.bands), name=intake.field)
