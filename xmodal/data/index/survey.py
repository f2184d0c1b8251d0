"""An indexed corpus in; what its rows hold, how large and how alike they are, and what is wrong with them out.

Of a large corpus a sample is read; every share and every number of duplicates is then one of the sample.
"""

import hashlib
import io
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from xmodal.data.decode.fields import FieldMap
from xmodal.data.decode.pillow import FORMATS
from xmodal.data.decode.text import caption_id, clean_caption
from xmodal.data.decode.thumbnail import thumbnail
from xmodal.data.index.corpus import Corpus, RawSample
from xmodal.data.index.sampling import Spread, read_spread
from xmodal.errors import BadSample

CHECKED_AT = 32  # pixels that a picture is decoded to, to see whether it can be


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sound row, for the grid of samples."""

    row: int
    key: str
    encoded: bytes | None
    caption: str


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Rows that share something: `rows` of them in `groups`; the keys of the largest group's first few."""

    rows: int
    groups: int
    keys: tuple[str, ...] = ()
    what: str = ""  # for captions: the caption


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Rows that training would quarantine for the same reason."""

    field: str
    reason: str
    rows: int
    key: str  # of the first
    detail: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """`measures` holds one number for each row or caption that has it, by a name with its unit."""

    rows: int  # read
    extents: int  # read
    members: Mapping[str, int]  # rows that have each member or column
    formats: Mapping[str, int]  # of images
    measures: Mapping[str, np.ndarray]
    same_bytes: Alike
    same_caption: Alike
    faults: tuple[Fault, ...]
    examples: tuple[Example, ...]


@dataclass
class _Tally:
    """What is counted on the way."""

    rows: int = 0
    members: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    measures: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    by_bytes: defaultdict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    by_caption: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    captions: dict[int, str] = field(default_factory=dict)
    faults: dict[tuple[str, str], list] = field(default_factory=dict)


def survey(corpus: Corpus, mapping: FieldMap, *, most: int, examples: int) -> Survey:
    """Read up to `most` rows, decode every picture of them, keep `examples` sound ones spread over what was read.

    Fields that `mapping` does not name are not looked into.
    """
    spread = Spread.over(corpus, most)
    wanted = set(np.linspace(0, spread.rows - 1, min(examples, spread.rows)).round().astype(int).tolist())
    tally, kept, due = _Tally(), [], 0
    for number, (row, sample) in enumerate(read_spread(corpus, spread)):
        sound = _enter(tally, sample, mapping)
        due += number in wanted
        if due and sound is not None:  # where a chosen row is bad, the next sound one stands for it
            kept.append(Example(row=row, key=sample.key, encoded=sound[0], caption=sound[1]))
            due -= 1
    return Survey(
        rows=tally.rows,
        extents=len(spread.extents),
        members=dict(tally.members.most_common()),
        formats=dict(tally.formats.most_common()),
        measures={name: np.array(values) for name, values in tally.measures.items()},
        same_bytes=_alike(tally.by_bytes.values()),
        same_caption=_alike(tally.by_caption.values(), {id(v): tally.captions[k] for k, v in tally.by_caption.items()}),
        faults=tuple(
            Fault(field=name, reason=reason, rows=rows, key=key, detail=detail)
            for (name, reason), (rows, key, detail) in sorted(tally.faults.items(), key=lambda item: -item[1][0])
        ),
        examples=tuple(kept),
    )


def _enter(tally: _Tally, sample: RawSample, mapping: FieldMap) -> tuple[bytes | None, str] | None:
    """Count one row; its picture and its first caption where it is sound, else None."""
    tally.rows += 1
    if sample.fault is not None:
        _refuse(tally, "sample", sample, sample.fault)
        return None
    members = sample.members or {}
    tally.members.update(name for name, value in members.items() if value is not None)
    encoded, caption, name = None, "", ""
    try:
        if "image" in mapping.sources:
            name = "image"
            encoded = _image(tally, sample.key, mapping.pick(name, members))
        if "text" in mapping.sources:
            name = "text"
            caption = _captions(tally, sample.key, mapping.pick(name, members))
    except BadSample as fault:
        _refuse(tally, name, sample, fault)
        return None
    return encoded, caption


def _refuse(tally: _Tally, name: str, sample: RawSample, fault: BadSample) -> None:
    entry = tally.faults.setdefault((name, fault.reason), [0, sample.key, fault.detail])
    entry[0] += 1


def _image(tally: _Tally, key: str, value: Any) -> bytes:
    thumbnail(value, CHECKED_AT)
    encoded = bytes(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with it was found by the decoder above
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            width, height = picture.size
            tally.formats[picture.format or "unknown"] += 1
    tally.measures["image width, px"].append(width)
    tally.measures["image height, px"].append(height)
    tally.measures["image size, bytes"].append(len(encoded))
    tally.by_bytes[hashlib.blake2b(encoded, digest_size=16).digest()].append(key)
    return encoded


def _captions(tally: _Tally, key: str, value: Any) -> str:
    """The first caption of the row, cleaned; every one of a list is measured."""
    texts = [text for text in (value if isinstance(value, list | tuple) else [value]) if text]
    if not all(isinstance(text, str | bytes) for text in texts) or not texts:
        raise BadSample("no_caption", f"{type(value).__name__} {str(value)[:40]!r}")
    cleaned = [clean_caption(text) for text in texts]
    tally.measures["captions a row"].append(len(texts))
    for text, short in zip(texts, cleaned, strict=True):
        tally.measures["caption, characters"].append(len(text))
        tally.measures["caption, words"].append(len(short.split()))
    for text in {caption_id(one): one for one in cleaned}.items():
        tally.by_caption[text[0]].append(key)
        tally.captions.setdefault(*text)
    return cleaned[0]


def _alike(groups: Iterable[list[str]], names: Mapping[int, str] | None = None) -> Alike:
    several = [keys for keys in groups if len(keys) > 1]
    if not several:
        return Alike(rows=0, groups=0)
    largest = max(several, key=len)
    what = (names or {}).get(id(largest), "")
    return Alike(rows=sum(map(len, several)), groups=len(several), keys=tuple(largest[:3]), what=what)
