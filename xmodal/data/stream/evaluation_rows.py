"""Read and decode rows for embedding and evaluation: valid rows only, each with *all* its captions.

R: valid rows.  M: captions, of which a row may have several.  Training chooses one caption of a row at every step;
embedding and evaluation need every one. Each row or caption that cannot be read has a record in `faults`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Field, FieldMap, allocate_columns, row_views
from xmodal.data.decode.text import TextField, caption_id, clean_caption
from xmodal.data.index.corpus import Corpus, RawSample, read_extent
from xmodal.data.stream.blocks import subset_corpus
from xmodal.data.stream.order import RowRandom
from xmodal.errors import BadSample

CHUNK_BYTES = 48 << 20  # decoded together
CHUNK_ROWS = 512


@dataclass(frozen=True, eq=False)
class EvaluationDecoder:
    """How samples become rows for evaluation; a row is valid when all its fields can be decoded."""

    field_map: FieldMap
    fields: tuple[Field, ...]
    label: bool = False  # whether the label of each row is read, too

    @property
    def text_field(self) -> TextField | None:
        """The field of captions, if any."""
        return next((field for field in self.fields if isinstance(field, TextField)), None)

    @property
    def single_fields(self) -> tuple[Field, ...]:
        """The fields that have one value a row: images, video, audio."""
        return tuple(field for field in self.fields if not isinstance(field, TextField))

    @property
    def chunk_rows(self) -> int:
        """Number of rows decoded together."""
        row_bytes = sum(column.nbytes for column in allocate_columns(self.single_fields, 1).values())
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(1, row_bytes)))


@dataclass(frozen=True, eq=False)
class EvaluationRows:
    """The valid rows of some extents, in the order of the corpus.

    For each row: `row` int64 [R], `key`, `label`, and the `columns` of images, video and audio [R, ...]. For each
    caption: `owner` int64 [M] (index of its row among the R rows), `item` int32 [M] (position in the row's list),
    `text` (clean), `tokens` int32 [M, L], `length` int32 [M], `text_id` int64 [M] (equal captions, equal ids). Fields
    that the decoder does not have are empty.
    """

    row: np.ndarray
    key: list[str]
    columns: dict[str, np.ndarray]
    owner: np.ndarray
    item: np.ndarray
    text: list[str]
    tokens: np.ndarray
    length: np.ndarray
    text_id: np.ndarray
    label: list[str]
    faults: list[dict[str, Any]]


def chunk_extents(corpus: Corpus, start: int, stop: int, rows: int) -> Iterator[np.ndarray]:
    """Yield the extents `start` to `stop` - 1 in groups of about `rows` rows: int64 arrays of extent numbers."""
    counts = corpus.extents.rows[start:stop].astype(np.int64)
    group = (np.cumsum(counts) - counts) // rows
    yield from np.split(np.arange(start, stop), np.flatnonzero(np.diff(group)) + 1)


@dataclass(frozen=True, eq=False)
class ExtentChunk:
    """Some extents with the part of the corpus that describes them, small enough to send to a worker."""

    corpus: Corpus
    first_rows: tuple[int, ...]  # the number in the whole corpus of each extent's first row

    @classmethod
    def from_corpus(cls, corpus: Corpus, extents: np.ndarray) -> "ExtentChunk":
        """Take the extents of these numbers from a corpus."""
        return cls(subset_corpus(corpus, extents), tuple(corpus.row_start[extents].tolist()))


def read_evaluation_rows(
    chunk: ExtentChunk, decoder: EvaluationDecoder, *, only: frozenset[int] | None = None
) -> EvaluationRows:
    """Read and decode all rows of the extents, or `only` those of these numbers; StorageError when storage fails."""
    collector = _RowCollector(decoder, chunk.corpus.rows if only is None else len(only))
    members = tuple(sorted(decoder.field_map.members))
    for extent, first in enumerate(chunk.first_rows):
        shard = chunk.corpus.shards[chunk.corpus.extents.shard[extent]].path
        for row, sample in enumerate(read_extent(chunk.corpus, extent, columns=members), first):
            if only is None or row in only:
                collector.add(sample, row, shard)
    return collector.rows()


class _RowCollector:
    """Collects decoded rows, captions and faults."""

    def __init__(self, decoder: EvaluationDecoder, rows: int) -> None:
        self._decoder = decoder
        self._columns = allocate_columns(decoder.single_fields, rows)
        self._row: list[int] = []
        self._key: list[str] = []
        self._label: list[str] = []
        self._owner: list[int] = []  # of each caption
        self._item: list[int] = []  # of each caption
        self._text: list[str] = []  # of each caption
        self._faults: list[dict[str, object]] = []
        self._random = RowRandom(0, 0)

    def add(self, sample: RawSample, row: int, shard: str) -> None:
        """Decode every field of a sample and add it; where that fails, add a fault instead."""
        location = {"row": row, "shard": shard, "key": sample.key, "offset": sample.offset}
        field_name = ""
        try:
            if sample.fault is not None:
                raise sample.fault
            members = sample.members or {}
            field_name = "label"
            label = _label(self._decoder.field_map.pick("label", members)) if self._decoder.label else None
            field_name = "text"
            captions, bad = self._clean_captions(members)
            for field in self._decoder.single_fields:
                field_name = field.name
                self._decode(field, members, row)
        except BadSample as fault:
            self._faults.append(_record(location, field_name, fault))
            return
        self._faults += [_record(location, "text", fault, item) for item, fault in bad]
        for item, text in captions:
            self._owner.append(len(self._row))
            self._item.append(item)
            self._text.append(text)
        self._row.append(row)
        self._key.append(sample.key)
        if label is not None:
            self._label.append(label)

    def _clean_captions(
        self, members: Mapping[str, object]
    ) -> tuple[list[tuple[int, str]], list[tuple[int, BadSample]]]:
        if self._decoder.text_field is None:
            return [], []
        return _captions(self._decoder.field_map.pick("text", members))

    def _decode(self, field: Field, members: Mapping[str, object], row: int) -> None:
        raw = self._decoder.field_map.pick(field.name, members)
        field.decode(raw, self._random(row), row_views(self._columns, len(self._row)))

    def rows(self) -> EvaluationRows:
        """Return everything that was added, with the captions tokenised."""
        tokens, length = np.empty((0, 0), np.int32), np.empty(0, np.int32)
        if self._decoder.text_field is not None:
            tokens, length = self._decoder.text_field.tokenize(self._text)
        return EvaluationRows(
            row=np.array(self._row, np.int64),
            key=self._key,
            columns={name: column[: len(self._row)] for name, column in self._columns.items()},
            owner=np.array(self._owner, np.int64),
            item=np.array(self._item, np.int32),
            text=self._text,
            tokens=tokens,
            length=length,
            text_id=np.array([caption_id(text) for text in self._text], np.int64),
            label=self._label,
            faults=self._faults,
        )


def _captions(raw: object) -> tuple[list[tuple[int, str]], list[tuple[int, BadSample]]]:
    """Return the usable captions and the faults of the others, with their positions; BadSample where none is usable."""
    texts: Sequence[Any] = raw if isinstance(raw, list | tuple) else [raw]
    captions, bad = [], []
    for position, text in enumerate(texts):
        if not isinstance(text, str | bytes) or not text.strip():
            continue  # lists may be padded with empty values
        try:
            captions.append((position, clean_caption(text)))
        except BadSample as fault:
            bad.append((position, fault))
    if captions:
        return captions, bad
    raise bad[0][1] if bad else BadSample("no_caption", f"{type(raw).__name__} {str(raw)[:40]!r}")


def _label(raw: object) -> str:
    """Return the class of a row as text: `3`, `"3"` and `b"3\\n"` are the same."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else str(raw) if raw is not None else ""
    except UnicodeDecodeError as cause:
        raise BadSample("bad_utf8", f"label: {cause}") from cause
    if not text.strip():
        raise BadSample("no_label", f"{type(raw).__name__} {str(raw)[:40]!r}")
    return " ".join(text.split())


def _record(location: Mapping[str, object], field: str, fault: BadSample, item: int | None = None) -> dict[str, Any]:
    return {**location, "item": item, "field": field, "reason": fault.reason, "detail": fault.detail[:200]}
