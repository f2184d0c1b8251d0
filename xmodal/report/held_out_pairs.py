"""A held-out corpus in, some of its sound pairs out: what the gallery shows and every model of a page encodes.

A pair is a picture and its caption, or the pictures of a clip and its sound.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from xmodal.data.decode.fields import Field, FieldMap, allocate, row_of
from xmodal.data.decode.text import caption_id, clean_caption
from xmodal.data.decode.thumbnail import thumbnail
from xmodal.data.index.corpus import Corpus, RawSample
from xmodal.data.index.sampling import Spread, read_spread
from xmodal.data.media.video import VideoField
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import decoded
from xmodal.errors import BadSample, CorpusError

THUMBNAIL = 112  # pixels: sharp at the size of a stamp, a few kilobytes each
SHOTS = 2  # frames of a clip beside each other in its stamp, and below


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One sound row as the corpus holds it, with the first of its captions, and its picture as a stamp on white.

    Of a clip the stamp shows some frames, `sound` is its log-mel, and the caption a description or the key.
    """

    row: int
    key: str
    raw: Mapping[str, Any]  # what the corpus holds of each modality
    caption: str
    captions: int  # that the row has
    thumbnail: UInt8[np.ndarray, "S S 3"]
    sound: Float32[np.ndarray, "L M"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The pairs of one corpus.

    `ids` are equal where captions are, so that every picture of a caption is right; a clip's are its own.
    """

    uri: str
    fingerprint: str
    corpus_rows: int
    skipped: int  # rows that were read and are not sound
    pairs: tuple[Pair, ...]
    modalities: tuple[str, str] = ("image", "text")

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def ids(self) -> Int64[Tensor, "P"]:
        if "text" not in self.modalities:
            return torch.arange(len(self.pairs))
        return torch.tensor([caption_id(pair.caption) for pair in self.pairs], dtype=torch.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """P pairs as one model sees them: unit vectors in float32. Of clips, `image` are the pictures, `text` the sound."""

    image: Float[Tensor, "P D"]
    text: Float[Tensor, "P D"]


def read_pairs(corpus: Corpus, mapping: FieldMap, most: int, clips: Sequence[Field] = ()) -> Pairs:
    """Up to `most` rows spread over the corpus; CorpusError where none of them is sound.

    `clips` decode the pictures and the sound of what is shown, where the pairs are clips.
    """
    spread = Spread.over(corpus, most)
    pairs, skipped = [], 0
    for row, sample in read_spread(corpus, spread, columns=tuple(sorted(mapping.members))):
        try:
            pairs.append(_clip(row, sample, mapping, clips) if clips else _pair(row, sample, mapping))
        except BadSample:
            skipped += 1
    if not pairs:
        raise CorpusError(f"{corpus.uri}: none of {spread.rows} rows that were read is a sound pair")
    return Pairs(
        uri=corpus.uri,
        fingerprint=corpus.fingerprint,
        corpus_rows=corpus.rows,
        skipped=skipped,
        pairs=tuple(pairs),
        modalities=("video", "audio") if clips else ("image", "text"),
    )


def shown_of(video: VideoField, audio: Field) -> tuple[Field, Field]:
    """The fields of a model as `read_pairs` wants them: the same seconds, as few and as large frames as a stamp has."""
    size = THUMBNAIL // SHOTS * 2  # of a screen with two pixels for each
    return VideoField(name=video.name, frames=SHOTS**2, size=size, window=video.window, fit="pad"), audio


def _clip(row: int, sample: RawSample, mapping: FieldMap, fields: Sequence[Field]) -> Pair:
    if sample.fault is not None:
        raise sample.fault
    members = sample.members or {}
    raw = {field.name: mapping.pick(field.name, members) for field in fields}
    block, random = allocate(fields, 1), np.random.default_rng(0)
    for field in fields:
        field.decode(raw[field.name], random, row_of(block, 0))
    caption = sample.key
    if "text" in mapping.sources:
        with suppress(BadSample):
            caption = clean_caption(mapping.pick("text", members))
    return Pair(
        row=row, key=sample.key, raw=raw, caption=caption, captions=1, thumbnail=_stamp(block["video"][0]),
        sound=block["audio"][0][: max(1, int(block["audio_length"][0]))],
    )  # fmt: skip


def _stamp(shots: UInt8[np.ndarray, "T S S 3"]) -> UInt8[np.ndarray, "S2 S2 3"]:
    """SHOTS x SHOTS frames in the order of reading."""
    rows = [np.concatenate(list(shots[i * SHOTS : (i + 1) * SHOTS]), 1) for i in range(SHOTS)]
    return np.concatenate(rows, 0)


def stamp(mapping: FieldMap, members: Mapping[str, Any]) -> UInt8[np.ndarray, "S S 3"]:
    """What a row looks like, a picture or the middle of a clip; BadSample where it cannot be decoded."""
    if "video" not in mapping.sources:
        return thumbnail(mapping.pick("image", members), THUMBNAIL)
    field = VideoField(frames=1, size=THUMBNAIL, fit="pad")
    block = allocate([field], 1)
    field.decode(mapping.pick("video", members), np.random.default_rng(0), row_of(block, 0))
    return block["video"][0, 0]


def _pair(row: int, sample: RawSample, mapping: FieldMap) -> Pair:
    if sample.fault is not None:
        raise sample.fault
    members = sample.members or {}
    image, text = mapping.pick("image", members), mapping.pick("text", members)
    first = next((one for one in text if one), None) if isinstance(text, list | tuple) else text
    if not isinstance(first, str | bytes):
        raise BadSample("no_caption", type(first).__name__)
    return Pair(
        row=row,
        key=sample.key,
        raw={"image": image, "text": first},
        caption=clean_caption(first),
        captions=len(text) if isinstance(text, list | tuple) else 1,
        thumbnail=thumbnail(image, THUMBNAIL),
    )


@torch.no_grad()
def embed(model: DualEncoder, fields: Sequence[Field], pairs: Pairs, batch_size: int = 64) -> Embedded:
    """Every pair in the space of `model`, whose `fields` decode as at an evaluation: central crop, no augmentation."""
    found: dict[str, list[Tensor]] = {name: [] for name in pairs.modalities}
    device = next(model.parameters()).device
    for start in range(0, len(pairs), batch_size):
        batch = decoded(fields, [pair.raw for pair in pairs.pairs[start : start + batch_size]]).to(device)
        for name, parts in found.items():
            parts.append(model.encode(name, batch).cpu())
    image, text = (torch.cat(parts) for parts in found.values())
    return Embedded(image=image, text=text)
