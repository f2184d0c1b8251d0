"""From a sample's named members to decoded columns: what a field is, and where each field's bytes are found.

A *member* is what a corpus holds: a tar member by its extension (`jpg`, `seg.png`) or a Parquet column.
A *field* is what a model gets (`image`, `text`). A field map joins them, alternatives from left to right:

    image=jpg|png|webp     text=txt     text=json:caption     text=json:meta.title|txt

Behind an `@` stands where the sample says which seconds of a clip are meant, as start and end:

    video=mp4@json:words.4     audio=flac@json:speech
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from xmodal.errors import BadSample, ConfigError, CorpusError, nearest

IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp", "image", "img", "bmp", "gif", "tif", "tiff")
VIDEO_MEMBERS = ("mp4", "webm", "mkv", "mpg", "mpeg", "mov", "m4v", "avi", "video")
AUDIO_MEMBERS = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "audio", *VIDEO_MEMBERS)  # a clip has its sound inside
TEXT_MEMBERS = ("txt", "text", "caption", "captions")
TEXT_PATHS = ("json:caption", "json:text", "json:captions")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One decoded array per row: its numpy dtype name and its shape without the row dimension."""

    dtype: str
    shape: tuple[int, ...]


@runtime_checkable
class Field(Protocol):
    """Decodes one field of one sample into fixed-shape columns.

    `decode` writes into `out[column]`, views of one row of preallocated arrays (see `allocate`, `row_of`),
    and draws randomness from `rng` only. It raises `BadSample` and nothing else, before it has written
    anything. A field is cheap to pickle; what is costly to build is cached in each process.
    """

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> dict[str, Column]: ...

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None: ...


def allocate(fields: Iterable[Field], rows: int) -> dict[str, np.ndarray]:
    """Zeroed arrays [rows, *shape] for every column of the fields."""
    columns = {name: column for field in fields for name, column in field.columns.items()}
    return {name: np.zeros((rows, *column.shape), column.dtype) for name, column in columns.items()}


def row_of(block: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    """Writable views of one row; the Ellipsis keeps a scalar column a 0-d view instead of a copy."""
    return {name: column[row, ...] for name, column in block.items()}


@dataclass(frozen=True)
class Excerpt:
    """A raw value with the part of it that is meant, as the sample says it (`window.span_of` reads it)."""

    value: Any
    span: Any


@dataclass(frozen=True)
class Source:
    """One place of a field: a member, and for JSON or structs the keys below it (`json:meta.title`, `json:words.4`).

    `span` is the place of the seconds that are meant; it reads as an `Excerpt`.
    """

    member: str
    path: tuple[str, ...] = ()
    span: "Source | None" = None

    def __str__(self) -> str:
        place = f"{self.member}:{'.'.join(self.path)}" if self.path else self.member
        return f"{place}@{self.span}" if self.span else place

    @property
    def members(self) -> tuple[str, ...]:
        return (self.member, *(self.span.members if self.span else ()))

    def read(self, value: Any) -> Any:
        """The value at the path; None where a key is absent; BadSample `bad_json` if JSON does not parse."""
        if self.path and isinstance(value, bytes | str):
            value = _parse_json(value, self.member)
        for key in self.path:
            if isinstance(value, list | tuple):
                value = value[int(key)] if key.isdecimal() and int(key) < len(value) else None
            elif isinstance(value, Mapping):
                value = value.get(key)
            else:
                return None
        return value

    def known_absent(self, available: set[str]) -> bool:
        """Whether `available` shows that this source never matches; keys of an unlisted JSON are unknown."""
        if self.span is not None and self.span.known_absent(available):
            return True
        if self.member not in available:
            return True
        keys = {name for name in available if name.startswith(f"{self.member}:")}
        return bool(self.path and keys) and f"{self.member}:{self.path[0]}" not in keys


def _parse_json(value: bytes | str, member: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as cause:  # ValueError covers JSONDecodeError and UnicodeDecodeError
        raise BadSample("bad_json", f"member {member!r}: {cause}") from cause


def available_members(members: Mapping[str, Any]) -> set[str]:
    """Names in one sample, for `FieldMap.check` and `guess`: members, and `json:KEY` for first-level keys."""
    names = set(members)
    for member, value in members.items():
        try:
            parsed = _parse_json(value, member) if member == "json" and value is not None else value
        except BadSample:
            continue  # the sample itself reports it when it is decoded; here only the names matter
        if isinstance(parsed, Mapping):
            names.update(f"{member}:{key}" for key in parsed)
    return names


def _span(source: Source, members: Mapping[str, Any]) -> Any:
    if source.member not in members:
        raise BadSample("missing_member", f"no {source} that says which seconds are meant")
    return source.read(members[source.member])


@dataclass(frozen=True)
class FieldMap:
    """Where each field is found: `sources[field]` in order of preference."""

    sources: dict[str, tuple[Source, ...]]

    @property
    def specs(self) -> tuple[str, ...]:
        """The map as the user would write it; `parse_field_map(m.specs) == m`."""
        return tuple(f"{field}={'|'.join(map(str, found))}" for field, found in self.sources.items())

    @property
    def members(self) -> frozenset[str]:
        """Every member that may be read: the columns a Parquet reader needs."""
        return frozenset(member for found in self.sources.values() for source in found for member in source.members)

    def pick(self, field: str, members: Mapping[str, Any]) -> Any:
        """The raw value of `field`: the first source present and not null; None if all present are null.

        BadSample `missing_member` where no source's member exists, `bad_json` where its JSON does not parse.
        """
        present = [source for source in self.sources[field] if source.member in members]
        for source in present:
            if (value := source.read(members[source.member])) is not None:
                return Excerpt(value, _span(source.span, members)) if source.span else value
        if present:
            return None
        wanted = "|".join(map(str, self.sources[field]))
        raise BadSample("missing_member", f"no {wanted}; the sample has {', '.join(sorted(members)) or 'nothing'}")

    def check(self, available: set[str]) -> None:
        """CorpusError when a field can never be found among `available` (see `available_members`)."""
        for field, found in self.sources.items():
            if all(source.known_absent(available) for source in found):
                wanted = "|".join(map(str, found))
                raise CorpusError(
                    f"field map: {field}={wanted} matches nothing in this corpus; "
                    f"{nearest(str(found[0]), available)}. Map the field to one of these, e.g. {field}=NAME."
                )

    @staticmethod
    def guess(available: set[str], format: str, fields: Iterable[str] = ("image", "text")) -> "FieldMap":
        """The usual map of samples that have `available`; `format` ("tar", "parquet") is named in errors."""
        return FieldMap({field: _guess(field, available, format) for field in fields})


def _guess(field: str, available: set[str], format: str) -> tuple[Source, ...]:
    usual = {
        "image": IMAGE_MEMBERS, "video": VIDEO_MEMBERS, "audio": AUDIO_MEMBERS, "text": (*TEXT_MEMBERS, *TEXT_PATHS),
    }.get(field, (field,))  # fmt: skip
    candidates = [_parse_source(name, f"{field}={name}") for name in usual]
    found = tuple(source for source in candidates if not source.known_absent(available))
    if not found:
        raise CorpusError(
            f"cannot guess where the {field} of this {format} corpus is: it has "
            f"{', '.join(sorted(available)) or 'no fields'}, none of {', '.join(usual)}. "
            f"Say it in the field map, e.g. {field}=NAME or {field}=json:KEY."
        )
    # samples of one corpus may be jpg here and png there; two captions would be two different texts
    return found if field in ("image", "video", "audio") else found[:1]


def parse_field_map(specs: Iterable[str]) -> FieldMap:
    """`("image=jpg|png", "text=json:caption")` -> FieldMap; ConfigError names the spec at fault."""
    sources: dict[str, tuple[Source, ...]] = {}
    for spec in specs:
        field, equals, places = (part.strip() for part in spec.partition("="))
        if not equals or not field.isidentifier():
            raise ConfigError(f"field map: {spec!r} is not FIELD=MEMBER, e.g. image=jpg|png or text=json:caption")
        if field in sources:
            raise ConfigError(f"field map: {field!r} is given twice; join alternatives with '|' in one spec")
        sources[field] = tuple(_parse_source(place, spec) for place in places.split("|"))
    if not sources:
        raise ConfigError("field map: empty; give at least one FIELD=MEMBER, e.g. image=jpg|png")
    return FieldMap(sources)


def _parse_source(place: str, spec: str) -> Source:
    value, at, seconds = place.partition("@")
    member, colon, path = value.strip().partition(":")
    keys = tuple(path.split(".")) if colon else ()
    if not member or any(not key for key in keys) or "/" in member or "@" in seconds:
        wanted = "MEMBER, MEMBER:KEY.KEY, nor one of them with @MEMBER:KEY for its seconds"
        raise ConfigError(f"field map: {place!r} in {spec!r} is neither {wanted}")
    return Source(member.lstrip("."), keys, _parse_source(seconds, spec) if at else None)
