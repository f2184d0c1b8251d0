"""Read a sample of pairs from a held-out corpus and embed them: what the gallery shows and every model is judged on.

A pair is an image with its caption, or the video frames of a clip with its audio.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from xmodal.data.decode.fields import Field, FieldMap, allocate_columns, row_views
from xmodal.data.decode.text import caption_id, clean_caption
from xmodal.data.decode.thumbnail import thumbnail
from xmodal.data.index.corpus import Corpus, RawSample
from xmodal.data.index.sampling import SamplePlan, read_sample
from xmodal.data.media.video import VideoField
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import decode_batch
from xmodal.errors import BadSample, CorpusError

THUMBNAIL_SIZE = 112  # pixels: large enough to recognise the image, a few kilobytes each
FRAMES_PER_SIDE = 2  # a clip's thumbnail is a square of FRAMES_PER_SIDE x FRAMES_PER_SIDE frames


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportPair:
    """One valid row of a held-out corpus, with what a page shows of it.

    The thumbnail is the image on white, or some frames of a clip. The caption is the first one of the row; a clip
    without a text has its key instead.
    """

    row: int
    key: str
    raw: Mapping[str, object]  # encoded bytes or caption of each modality, as the corpus holds them
    caption: str
    caption_count: int  # captions that the row has
    thumbnail: UInt8[np.ndarray, "S S 3"]
    spectrogram: Float32[np.ndarray, "T M"] | None = None  # log-mel of a clip's audio


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportPairs:
    """The pairs that were read from one corpus."""

    uri: str
    fingerprint: str
    corpus_rows: int
    skipped: int  # rows that were read but are not valid
    pairs: tuple[ReportPair, ...]
    modalities: tuple[str, str] = ("image", "text")

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def ids(self) -> Int64[Tensor, "P"]:
        """One id per pair: equal for equal captions, so that each of their images is a correct answer.

        Without captions (clips) every pair has an id of its own.
        """
        if "text" not in self.modalities:
            return torch.arange(len(self.pairs))
        return torch.tensor([caption_id(pair.caption) for pair in self.pairs], dtype=torch.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairEmbeddings:
    """Unit vectors in float32 that one model gives P pairs.

    Of clips, `image` are the embeddings of the video and `text` those of the audio.
    """

    image: Float[Tensor, "P D"]
    text: Float[Tensor, "P D"]


def read_pairs(corpus: Corpus, mapping: FieldMap, max_rows: int, clip_fields: Sequence[Field] = ()) -> ReportPairs:
    """Read up to `max_rows` rows spread evenly over the corpus; rows that are not valid are counted and left out.

    With `clip_fields` the pairs are clips, whose thumbnails and spectrograms these fields decode. CorpusError where no
    row is valid.
    """
    plan = SamplePlan.evenly(corpus, max_rows)
    pairs, skipped = [], 0
    for row, sample in read_sample(corpus, plan, columns=tuple(sorted(mapping.members))):
        try:
            pair = _read_clip(row, sample, mapping, clip_fields) if clip_fields else _read_pair(row, sample, mapping)
            pairs.append(pair)
        except BadSample:
            skipped += 1
    if not pairs:
        raise CorpusError(f"{corpus.uri}: none of {plan.rows} rows that were read is a valid pair")
    return ReportPairs(
        uri=corpus.uri,
        fingerprint=corpus.fingerprint,
        corpus_rows=corpus.rows,
        skipped=skipped,
        pairs=tuple(pairs),
        modalities=("video", "audio") if clip_fields else ("image", "text"),
    )


def thumbnail_fields(video: VideoField, audio: Field) -> tuple[Field, Field]:
    """Return the fields with which `read_pairs` decodes clips: those of a model, with frames of a thumbnail's size.

    The thumbnail has two pixels for each pixel of the page, for screens of high density.
    """
    size = THUMBNAIL_SIZE // FRAMES_PER_SIDE * 2
    return VideoField(name=video.name, frames=FRAMES_PER_SIDE**2, size=size, window=video.window, fit="pad"), audio


def _read_clip(row: int, sample: RawSample, mapping: FieldMap, fields: Sequence[Field]) -> ReportPair:
    members = _members(sample)
    raw = {field.name: mapping.pick(field.name, members) for field in fields}
    block, random = allocate_columns(fields, 1), np.random.default_rng(0)
    for field in fields:
        field.decode(raw[field.name], random, row_views(block, 0))
    caption = sample.key
    if "text" in mapping.sources:
        with suppress(BadSample):
            caption = clean_caption(mapping.pick("text", members))
    return ReportPair(
        row=row,
        key=sample.key,
        raw=raw,
        caption=caption,
        caption_count=1,
        thumbnail=_tile_frames(block["video"][0]),
        spectrogram=block["audio"][0][: max(1, int(block["audio_length"][0]))],
    )


def _members(sample: RawSample) -> Mapping[str, Any]:
    """Return the members of a row; raise its fault where it could not be read."""
    if sample.fault is not None:
        raise sample.fault
    return sample.members or {}


def _tile_frames(frames: UInt8[np.ndarray, "T S S 3"]) -> UInt8[np.ndarray, "S2 S2 3"]:
    """Lay frames out in a square of FRAMES_PER_SIDE x FRAMES_PER_SIDE, in reading order."""
    side = FRAMES_PER_SIDE
    return np.concatenate([np.concatenate(list(frames[i * side : (i + 1) * side]), 1) for i in range(side)], 0)


def row_thumbnail(mapping: FieldMap, members: Mapping[str, Any]) -> UInt8[np.ndarray, "S S 3"]:
    """Return a thumbnail of a row, its image or the middle frame of its video; BadSample where it cannot be decoded."""
    if "video" not in mapping.sources:
        return thumbnail(mapping.pick("image", members), THUMBNAIL_SIZE)
    field = VideoField(frames=1, size=THUMBNAIL_SIZE, fit="pad")
    block = allocate_columns([field], 1)
    field.decode(mapping.pick("video", members), np.random.default_rng(0), row_views(block, 0))
    frame: UInt8[np.ndarray, "S S 3"] = block["video"][0, 0]
    return frame


def _read_pair(row: int, sample: RawSample, mapping: FieldMap) -> ReportPair:
    members = _members(sample)
    image, text = mapping.pick("image", members), mapping.pick("text", members)
    first = next((caption for caption in text if caption), None) if isinstance(text, list | tuple) else text
    if not isinstance(first, str | bytes):
        raise BadSample("no_caption", type(first).__name__)
    return ReportPair(
        row=row,
        key=sample.key,
        raw={"image": image, "text": first},
        caption=clean_caption(first),
        caption_count=len(text) if isinstance(text, list | tuple) else 1,
        thumbnail=thumbnail(image, THUMBNAIL_SIZE),
    )


@torch.no_grad()
def embed_pairs(
    model: DualEncoder, fields: Sequence[Field], pairs: ReportPairs, batch_size: int = 64
) -> PairEmbeddings:
    """Embed every pair with `model`; its `fields` decode as in an evaluation (central crop, no augmentation)."""
    chunks: dict[str, list[Tensor]] = {name: [] for name in pairs.modalities}
    device = next(model.parameters()).device
    for start in range(0, len(pairs), batch_size):
        batch = decode_batch(fields, [pair.raw for pair in pairs.pairs[start : start + batch_size]]).to(device)
        for name in pairs.modalities:
            chunks[name].append(model.encode(name, batch).cpu())
    image, text = (torch.cat(chunks[name]) for name in pairs.modalities)
    return PairEmbeddings(image=image, text=text)
