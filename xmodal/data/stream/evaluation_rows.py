"""Rows as a frozen model is shown them: extents in; what is decoded of the sound rows, with *all* captions, out.

R: sound rows.  M: captions, of which a row may have several.  Training draws one caption of a row at every step;
embeddings and evaluation want every one. What cannot be read is listed in `faults`, row by row, and nothing vanishes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Field, FieldMap, allocate, row_of
from xmodal.data.decode.text import TextField, caption_id, clean_caption
from xmodal.data.index.corpus import Corpus, RawSample, read_extent
from xmodal.data.stream.blocks import take
from xmodal.data.stream.order import RowRandom
from xmodal.errors import BadSample

CHUNK_BYTES = 48 << 20  # decoded together
CHUNK_ROWS = 512


@dataclass(frozen=True, eq=False)
class ItemRecipe:
    """Which fields are wanted and what decodes them; a row is sound when all of them are."""

    field_map: FieldMap
    fields: tuple[Field, ...]
    label: bool = False

    @property
    def text(self) -> TextField | None:
        """The field of captions, of which a row may have several."""
        return next((field for field in self.fields if isinstance(field, TextField)), None)

    @property
    def single(self) -> tuple[Field, ...]:
        """The fields of which a row has one each: pictures, clips, sound."""
        return tuple(field for field in self.fields if not isinstance(field, TextField))

    @property
    def chunk_rows(self) -> int:
        """Rows decoded together."""
        row_bytes = sum(column.nbytes for column in allocate(self.single, 1).values())
        return max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(1, row_bytes)))


@dataclass(frozen=True, eq=False)
class Items:
    """The sound rows of some extents, in corpus order.

    `row` int64 [R]; `key` and `label` one for each row; `columns` of pictures, clips and sound [R, ...]. Captions:
    `owner` int64 [M] (place among the R rows), `item` int32 [M] (place in the row's list), `text` (clean), `tokens`
    int32 [M, L], `length` int32 [M], `text_id` int64 [M] (equal captions, equal ids). Fields that were not asked for
    are empty.
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


def chunks(corpus: Corpus, start: int, stop: int, rows: int) -> Iterator[np.ndarray]:
    """Extents `start` to `stop` - 1 in groups of about `rows` rows: int64 arrays of extent numbers."""
    counts = corpus.extents.rows[start:stop].astype(np.int64)
    group = (np.cumsum(counts) - counts) // rows
    yield from np.split(np.arange(start, stop), np.flatnonzero(np.diff(group)) + 1)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some extents with all that it takes to read them, small enough to travel."""

    corpus: Corpus
    first_rows: tuple[int, ...]  # the number in the whole corpus of each extent's first row

    @classmethod
    def of(cls, corpus: Corpus, extents: np.ndarray) -> "Chunk":
        return cls(take(corpus, extents), tuple(corpus.row_start[extents].tolist()))


def read_items(chunk: Chunk, recipe: ItemRecipe, *, only: frozenset[int] | None = None) -> Items:
    """Read and decode, every row or `only` these; StorageError when the store itself fails."""
    reading = _Reading(recipe, chunk.corpus.rows if only is None else len(only))
    members = tuple(sorted(recipe.field_map.members))
    for extent, first in enumerate(chunk.first_rows):
        shard = chunk.corpus.shards[chunk.corpus.extents.shard[extent]].path
        for place, sample in enumerate(read_extent(chunk.corpus, extent, columns=members)):
            if only is None or first + place in only:
                reading.enter(sample, first + place, shard)
    return reading.items()


class _Reading:
    """The rows read so far."""

    def __init__(self, recipe: ItemRecipe, rows: int) -> None:
        self._recipe = recipe
        self._columns = allocate(recipe.single, rows)
        self._row: list[int] = []
        self._key: list[str] = []
        self._label: list[str] = []
        self._captions: list[tuple[int, int, str]] = []  # owner, item, text
        self._faults: list[dict[str, Any]] = []
        self._random = RowRandom(0, 0)

    def enter(self, sample: RawSample, row: int, shard: str) -> None:
        """Decode every field of a sample; one that fails leaves a fault instead of a row."""
        where = {"row": row, "shard": shard, "key": sample.key, "offset": sample.offset}
        field = ""
        try:
            if sample.fault is not None:
                raise sample.fault
            held = sample.members or {}
            field = "label"
            label = _label(self._recipe.field_map.pick("label", held)) if self._recipe.label else None
            field = "text"
            captions, bad = self._texts(held)
            for one in self._recipe.single:
                field = one.name
                self._decode(one, held, row)
        except BadSample as fault:
            self._faults.append(_record(where, field, fault))
            return
        self._faults += [_record(where, "text", fault, item) for item, fault in bad]
        self._captions += [(len(self._row), item, text) for item, text in captions]
        self._row.append(row)
        self._key.append(sample.key)
        if label is not None:
            self._label.append(label)

    def _texts(self, held: dict[str, Any]) -> tuple[list[tuple[int, str]], list[tuple[int, BadSample]]]:
        if self._recipe.text is None:
            return [], []
        return _captions(self._recipe.field_map.pick("text", held))

    def _decode(self, field: Field, held: dict[str, Any], row: int) -> None:
        raw = self._recipe.field_map.pick(field.name, held)
        field.decode(raw, self._random(row), row_of(self._columns, len(self._row)))

    def items(self) -> Items:
        owner, item, text = ([c[i] for c in self._captions] for i in range(3))
        tokens, length = np.empty((0, 0), np.int32), np.empty(0, np.int32)
        if self._recipe.text is not None:
            tokens, length = self._recipe.text.tokens(text)  # type: ignore[arg-type]
        return Items(
            row=np.array(self._row, np.int64),
            key=self._key,
            columns={name: column[: len(self._row)] for name, column in self._columns.items()},
            owner=np.array(owner, np.int64),
            item=np.array(item, np.int32),
            text=text,  # type: ignore[arg-type]
            tokens=tokens,
            length=length,
            text_id=np.array([caption_id(t) for t in text], np.int64),  # type: ignore[arg-type]
            label=self._label,
            faults=self._faults,
        )


def _captions(raw: Any) -> tuple[list[tuple[int, str]], list[tuple[int, BadSample]]]:
    """The usable captions of a row with their places, and those that are no text; BadSample where none is usable."""
    given: Sequence[Any] = raw if isinstance(raw, list | tuple) else [raw]
    found, bad = [], []
    for place, text in enumerate(given):
        if not isinstance(text, str | bytes) or not text.strip():
            continue  # a list may be filled up with nothing
        try:
            found.append((place, clean_caption(text)))
        except BadSample as fault:
            bad.append((place, fault))
    if found:
        return found, bad
    raise bad[0][1] if bad else BadSample("no_caption", f"{type(raw).__name__} {str(raw)[:40]!r}")


def _label(raw: Any) -> str:
    """The class of a row as text: `3`, `"3"` and `b"3\\n"` are the same."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else str(raw) if raw is not None else ""
    except UnicodeDecodeError as cause:
        raise BadSample("bad_utf8", f"label: {cause}") from cause
    if not text.strip():
        raise BadSample("no_label", f"{type(raw).__name__} {str(raw)[:40]!r}")
    return " ".join(text.split())


def _record(where: dict[str, Any], field: str, fault: BadSample, item: int | None = None) -> dict[str, Any]:
    return {**where, "item": item, "field": field, "reason": fault.reason, "detail": fault.detail[:200]}
