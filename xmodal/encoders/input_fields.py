"""Input adapters by their descriptions, and the decoded fields that each of them reads."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xmodal.batch import Batch
from xmodal.data.decode.fields import Field, allocate_columns, row_views
from xmodal.encoders.av_inputs import AudioInput, VideoInput
from xmodal.encoders.inputs import ImageInput, InputAdapter, TextInput
from xmodal.errors import CheckpointError, ConfigError, nearest

if TYPE_CHECKING:
    from xmodal.data.decode.augment import Augment

INPUT_ADAPTERS: dict[str, type[InputAdapter]] = {
    kind.kind: kind for kind in (ImageInput, TextInput, VideoInput, AudioInput)
}


def register_input_adapter(adapter: type[Any]) -> None:
    """Add a class of input adapters, by its `kind`, to those that checkpoints may name; ConfigError for a taken name.

    A tower of a user's own may take it from then on; register it, too, before you load such a checkpoint (`--plugin`).
    """
    if INPUT_ADAPTERS.setdefault(adapter.kind, adapter) is not adapter:
        raise ConfigError(
            f"input adapter: the kind {adapter.kind!r} is taken by {INPUT_ADAPTERS[adapter.kind].__name__}"
        )


def build_input_adapter(description: Mapping[str, Any]) -> InputAdapter:
    """Build the input adapter that `describe` described; CheckpointError for an unknown kind."""
    kind, arguments = description.get("kind"), {name: x for name, x in description.items() if name != "kind"}
    if kind not in INPUT_ADAPTERS:
        raise CheckpointError(
            f"this model has a tower that takes {kind!r}: {nearest(str(kind), INPUT_ADAPTERS)}; update xmodal, or load "
            "the module that registers it with --plugin"
        )
    return INPUT_ADAPTERS[kind](**arguments)


def fields_for_model(
    model: Any, tokenizer_json: str | None = None, augment: "Augment | None" = None
) -> tuple[Field, ...]:
    """Return the field of each modality of a dual encoder, in their order (`field_for_input`)."""
    return tuple(field_for_input(model.tower(name).input_adapter, tokenizer_json, augment) for name in model.modalities)


def decode_batch(fields: Sequence[Field], rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Decode rows into a batch; a row holds the bytes (or the caption) of every field by its name.

    BadSample if one cannot be decoded.
    """
    block, random = allocate_columns(fields, len(rows)), np.random.default_rng(0)
    for place, row in enumerate(rows):
        for field in fields:
            field.decode(row[field.name], random, row_views(block, place))
    columns = {name: torch.from_numpy(column) for name, column in block.items()}
    return Batch(torch.arange(len(rows)), torch.ones(len(rows), dtype=torch.bool), columns)


def field_for_input(
    input_adapter: InputAdapter, tokenizer_json: str | None, augment: "Augment | None" = None
) -> "Field":
    """Return the field that decodes a row for an input adapter: as at an evaluation, or with `augment` as in training.

    With `augment` the time span of a clip is drawn, the same for video and audio; without, it lies in the middle.
    ConfigError for text without a tokenizer, or for a clip whose adapter does not record its seconds.
    """
    return input_adapter.build_field(tokenizer_json, augment)
