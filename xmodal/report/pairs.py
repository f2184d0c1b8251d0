"""A held-out corpus in, some of its sound pairs out: what the gallery shows and every model of a page encodes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from xmodal.batch import Batch
from xmodal.data.corpus import Corpus, RawSample
from xmodal.data.fields import FieldMap, allocate, row_of
from xmodal.data.image import ImageField
from xmodal.data.sampling import Spread, read_spread
from xmodal.data.text import TextField, caption_id, clean_caption
from xmodal.data.thumbnail import thumbnail
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import BadSample, CorpusError

THUMBNAIL = 112  # pixels: sharp at the size of a stamp, a few kilobytes each


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One sound row: its encoded picture, the first of its captions, and the picture as a stamp on white."""

    row: int
    key: str
    encoded: bytes
    caption: str
    captions: int  # that the row has
    thumbnail: UInt8[np.ndarray, "S S 3"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The pairs of one corpus; `ids` are equal where captions are, so that every picture of a caption is right."""

    uri: str
    fingerprint: str
    corpus_rows: int
    skipped: int  # rows that were read and are not sound
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def ids(self) -> Int64[Tensor, "P"]:
        return torch.tensor([caption_id(pair.caption) for pair in self.pairs], dtype=torch.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """P pairs as one model sees them: unit vectors in float32."""

    image: Float[Tensor, "P D"]
    text: Float[Tensor, "P D"]


def read_pairs(corpus: Corpus, mapping: FieldMap, most: int) -> Pairs:
    """Up to `most` rows spread over the corpus; CorpusError where none of them is sound."""
    spread = Spread.over(corpus, most)
    pairs, skipped = [], 0
    for row, sample in read_spread(corpus, spread, columns=tuple(sorted(mapping.members))):
        try:
            pairs.append(_pair(row, sample, mapping))
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
    )


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
        encoded=image,
        caption=clean_caption(first),
        captions=len(text) if isinstance(text, list | tuple) else 1,
        thumbnail=thumbnail(image, THUMBNAIL),
    )


@torch.no_grad()
def embed(model: DualEncoder, tokenizer_json: str, pairs: Pairs, batch_size: int = 64) -> Embedded:
    """Every pair in the space of `model`, as at an evaluation: central crop, no augmentation."""
    images, texts = [], []
    device = next(model.parameters()).device
    for batch in _batches(model, tokenizer_json, pairs, batch_size):
        there = batch.to(device)
        images.append(model.encode("image", there).cpu())
        texts.append(model.encode("text", there).cpu())
    return Embedded(image=torch.cat(images), text=torch.cat(texts))


def _batches(model: DualEncoder, tokenizer_json: str, pairs: Pairs, batch_size: int) -> Iterator[Batch]:
    fields = (
        ImageField(size=model.tower("image").intake.size),
        TextField(tokenizer_json=tokenizer_json, length=model.tower("text").intake.size),
    )
    random = np.random.default_rng(0)  # nothing here draws from it
    for start in range(0, len(pairs), batch_size):
        part = pairs.pairs[start : start + batch_size]
        block = allocate(fields, len(part))
        for place, pair in enumerate(part):
            out = row_of(block, place)
            fields[0].decode(pair.encoded, random, out)
            fields[1].decode(pair.caption, random, out)
        yield Batch(
            torch.tensor([pair.row for pair in part]),
            torch.ones(len(part), dtype=torch.bool),
            {name: torch.from_numpy(column) for name, column in block.items()},
        )
