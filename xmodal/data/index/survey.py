"""Survey a corpus: the members of its rows, their sizes, duplicates, and the rows that training would quarantine.

Of a large corpus a sample is read; shares and numbers of duplicates are then those of the sample.
"""

import hashlib
import io
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from xmodal.data.decode.fields import FieldMap
from xmodal.data.decode.pillow import PILLOW_FORMATS
from xmodal.data.decode.text import caption_id, clean_caption
from xmodal.data.decode.thumbnail import thumbnail
from xmodal.data.index.corpus import Corpus, RawSample
from xmodal.data.index.sampling import SamplePlan, read_sample
from xmodal.errors import BadSample

MIN_PAIRS = 30  # of neighbours, before anything is said about the order
CHECK_SIZE = 32  # pixels a side, to which every image is decoded to check that it can be


@dataclass(frozen=True, kw_only=True)
class SurveyExample:
    """A valid row, for the grid of samples."""

    row: int
    key: str
    encoded: bytes | None
    caption: str


@dataclass(frozen=True, kw_only=True)
class DuplicateRows:
    """Rows that share their image or a caption: `rows` of them in `groups`; some keys of the largest group."""

    rows: int
    groups: int
    keys: tuple[str, ...] = ()
    caption: str = ""  # of the largest group, where captions were compared


@dataclass(frozen=True, kw_only=True)
class FaultCount:
    """Number of rows that training would quarantine for the same reason."""

    field: str
    reason: str
    rows: int
    key: str  # of the first such row
    detail: str  # of the first such row


@dataclass(frozen=True, kw_only=True)
class NeighbourLikeness:
    """How alike rows are that follow each other in the corpus, and rows at random; means over `pairs` of each.

    `captions` is the share of words that two captions have in common (Jaccard), without those that most captions have;
    `images` the share of equal images.
    """

    pairs: int
    captions: float
    captions_at_random: float
    images: float
    images_at_random: float

    @property
    def is_sorted(self) -> bool:
        """Whether neighbours are much more alike than rows at random: sorted by class or source, or image by image."""
        captions = self.captions > max(2 * self.captions_at_random, self.captions_at_random + 0.1)
        return self.pairs >= MIN_PAIRS and (captions or self.images > self.images_at_random + 0.1)


@dataclass(frozen=True, kw_only=True)
class CorpusSurvey:
    """The result of a survey. `measures` maps a name with its unit to one number for each row or caption."""

    rows: int  # that were read
    extents: int  # that were read
    members: Mapping[str, int]  # rows that have each member or column
    formats: Mapping[str, int]  # of images
    measures: Mapping[str, np.ndarray]
    same_bytes: DuplicateRows
    same_caption: DuplicateRows
    neighbours: NeighbourLikeness
    faults: tuple[FaultCount, ...]
    examples: tuple[SurveyExample, ...]


@dataclass
class _Counts:
    """Everything that is counted while rows are read."""

    rows: int = 0
    members: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    measures: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    by_bytes: defaultdict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))
    by_caption: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    captions: dict[int, str] = field(default_factory=dict)
    faults: dict[tuple[str, str], FaultCount] = field(default_factory=dict)
    valid: list[tuple[int, frozenset[str], bytes]] = field(default_factory=list)  # row, words, hash of the image


def survey_corpus(corpus: Corpus, mapping: FieldMap, *, max_rows: int, examples: int) -> CorpusSurvey:
    """Read up to `max_rows` rows, decode all their images, and keep `examples` valid rows at even distances.

    Only the fields that `mapping` names are examined.
    """
    plan = SamplePlan.evenly(corpus, max_rows)
    example_numbers = set(np.linspace(0, plan.rows - 1, min(examples, plan.rows)).round().astype(int).tolist())
    counts, chosen, missing = _Counts(), [], 0
    for number, (row, sample) in enumerate(read_sample(corpus, plan)):
        pair = _count_row(counts, sample, mapping)
        if pair is not None:
            words = frozenset(pair[1].lower().split())
            counts.valid.append((row, words, hashlib.blake2b(pair[0] or b"", digest_size=16).digest()))
        missing += number in example_numbers
        if missing and pair is not None:  # the next valid row replaces a chosen one that is bad
            chosen.append(SurveyExample(row=row, key=sample.key, encoded=pair[0], caption=pair[1]))
            missing -= 1
    return CorpusSurvey(
        rows=counts.rows,
        extents=len(plan.extents),
        members=dict(counts.members.most_common()),
        formats=dict(counts.formats.most_common()),
        measures={name: np.array(values) for name, values in counts.measures.items()},
        same_bytes=_duplicates(counts.by_bytes.values()),
        same_caption=_duplicates(
            counts.by_caption.values(), {id(v): counts.captions[k] for k, v in counts.by_caption.items()}
        ),
        neighbours=_neighbours(counts.valid, with_images="image" in mapping.sources),
        faults=tuple(sorted(counts.faults.values(), key=lambda fault: -fault.rows)),
        examples=tuple(chosen),
    )


def _count_row(counts: _Counts, sample: RawSample, mapping: FieldMap) -> tuple[bytes | None, str] | None:
    """Count one row; return its image and its first caption where it is valid, else None."""
    counts.rows += 1
    if sample.fault is not None:
        _count_fault(counts, "sample", sample, sample.fault)
        return None
    members = sample.members or {}
    counts.members.update(name for name, value in members.items() if value is not None)
    encoded, caption, name = None, "", ""
    try:
        if "image" in mapping.sources:
            name = "image"
            encoded = _count_image(counts, sample.key, mapping.pick(name, members))
        if "text" in mapping.sources:
            name = "text"
            caption = _count_captions(counts, sample.key, mapping.pick(name, members))
    except BadSample as fault:
        _count_fault(counts, name, sample, fault)
        return None
    return encoded, caption


def _count_fault(counts: _Counts, name: str, sample: RawSample, fault: BadSample) -> None:
    first = FaultCount(field=name, reason=fault.reason, rows=0, key=sample.key, detail=fault.detail)
    count = counts.faults.get((name, fault.reason), first)
    counts.faults[name, fault.reason] = replace(count, rows=count.rows + 1)


def _count_image(counts: _Counts, key: str, value: Any) -> bytes:
    """Decode and count one image; return its bytes."""
    thumbnail(value, CHECK_SIZE)
    encoded = bytes(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the decoder above has reported every fault already
        with Image.open(io.BytesIO(encoded), formats=PILLOW_FORMATS) as image:
            width, height = image.size
            counts.formats[image.format or "unknown"] += 1
    counts.measures["image width, px"].append(width)
    counts.measures["image height, px"].append(height)
    counts.measures["image size, bytes"].append(len(encoded))
    counts.by_bytes[hashlib.blake2b(encoded, digest_size=16).digest()].append(key)
    return encoded


def _count_captions(counts: _Counts, key: str, value: Any) -> str:
    """Count all captions of a row; return the first one, cleaned."""
    texts = [text for text in (value if isinstance(value, list | tuple) else [value]) if text]
    if not all(isinstance(text, str | bytes) for text in texts) or not texts:
        raise BadSample("no_caption", f"{type(value).__name__} {str(value)[:40]!r}")
    cleaned = [clean_caption(text) for text in texts]
    counts.measures["captions a row"].append(len(texts))
    for text, caption in zip(texts, cleaned, strict=True):
        counts.measures["caption, characters"].append(len(text))
        counts.measures["caption, words"].append(len(caption.split()))
    for number, caption in {caption_id(caption): caption for caption in cleaned}.items():
        counts.by_caption[number].append(key)
        counts.captions.setdefault(number, caption)
    return cleaned[0]


def _neighbours(valid: Sequence[tuple[int, frozenset[str], bytes]], *, with_images: bool) -> NeighbourLikeness:
    """Compare rows with the next one of the corpus, and equally many pairs of rows at random."""
    following = [(a, b) for a, b in pairwise(valid) if b[0] == a[0] + 1]
    frequency = Counter(word for _, words, _ in valid for word in words)
    common = {word for word, count in frequency.items() if count > len(valid) / 2}  # "a photo of": says nothing
    draw = random.Random(0)
    at_random = [(draw.choice(valid), draw.choice(valid)) for _ in following]
    at_random = [(a, b) for a, b in at_random if a[0] != b[0]]

    def likeness(pairs: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
        captions = [len((a[1] & b[1]) - common) / max(len((a[1] | b[1]) - common), 1) for a, b in pairs]
        images = [with_images and a[2] == b[2] for a, b in pairs]
        return sum(captions) / max(len(pairs), 1), sum(images) / max(len(pairs), 1)

    (captions, images), (captions_at_random, images_at_random) = likeness(following), likeness(at_random)
    return NeighbourLikeness(
        pairs=len(following),
        captions=captions,
        captions_at_random=captions_at_random,
        images=images,
        images_at_random=images_at_random,
    )


def _duplicates(groups: Iterable[list[str]], captions: Mapping[int, str] | None = None) -> DuplicateRows:
    """Count the groups of more than one key; `captions` has the caption of each group by the id of its list."""
    repeats = [keys for keys in groups if len(keys) > 1]
    if not repeats:
        return DuplicateRows(rows=0, groups=0)
    largest = max(repeats, key=len)
    caption = (captions or {}).get(id(largest), "")
    return DuplicateRows(rows=sum(map(len, repeats)), groups=len(repeats), keys=tuple(largest[:3]), caption=caption)
