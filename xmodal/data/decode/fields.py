"""Fields of a model's input: how a field is decoded, and which member of a sample holds it.

A *member* is a part of a stored sample: a tar member by its extension (`jpg`, `seg.png`) or a Parquet column.
A *field* is an input of a model (`image`, `text`). A field map names the member of each field, with alternatives from
left to right:

    image=jpg|png|webp     text=txt     text=json:caption     text=json:meta.title|txt

After an `@` it names the member with the start and end, in seconds, of the part of a clip to decode:

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
AUDIO_MEMBERS = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "audio", *VIDEO_MEMBERS)  # videos contain audio
TEXT_MEMBERS = ("txt", "text", "caption", "captions")
TEXT_PATHS = ("json:caption", "json:text", "json:captions")


@dataclass(frozen=True, kw_only=True)
class Column:
    """The layout of one decoded array: its numpy dtype name and its shape without the row dimension."""

    dtype: str
    shape: tuple[int, ...]


@runtime_checkable
class Field(Protocol):
    """Decodes one field of a sample into columns of fixed shape.

    `decode` takes the raw value of the member and writes into `out[column]`, views of one row of preallocated arrays
    (see `allocate_columns`, `row_views`). It draws random numbers from `rng` only. It raises `BadSample` and nothing
    else, before it has written anything. A field is cheap to pickle; costly parts are cached in each process.
    """

    @property
    def name(self) -> str:
        """Name of the field, and of its main column."""
        ...

    @property
    def columns(self) -> dict[str, Column]:
        """Layout of every column that `decode` writes."""
        ...

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        """Decode the raw value of one sample into `out`."""
        ...


def allocate_columns(fields: Iterable[Field], rows: int) -> dict[str, np.ndarray]:
    """Return zeros [rows, *shape] for every column of the fields."""
    columns = {name: column for field in fields for name, column in field.columns.items()}
    return {name: np.zeros((rows, *column.shape), column.dtype) for name, column in columns.items()}


def row_views(block: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    """Return writable views of one row of every column."""
    return {name: column[row, ...] for name, column in block.items()}  # the Ellipsis makes a scalar column a view, too


@dataclass(frozen=True)
class ValueWithSpan:
    """A raw value and the time span of it to decode, as the sample states it (see `clip_window.parse_time_span`)."""

    value: Any
    span: Any


@dataclass(frozen=True)
class FieldSource:
    """Where a field may be found: a member, and for JSON or structs the keys in it (`json:meta.title`, `json:words.4`).

    `span`, if any, is where its time span is found; the field's raw value is then a `ValueWithSpan`.
    """

    member: str
    path: tuple[str, ...] = ()
    span: "FieldSource | None" = None

    def __str__(self) -> str:
        source = f"{self.member}:{'.'.join(self.path)}" if self.path else self.member
        return f"{source}@{self.span}" if self.span else source

    @property
    def members(self) -> tuple[str, ...]:
        """Every member that is read."""
        return (self.member, *(self.span.members if self.span else ()))

    def read(self, value: Any) -> Any:
        """Return the value at the path; None where a key is absent; BadSample `bad_json` if JSON does not parse."""
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

    def is_absent(self, available: set[str]) -> bool:
        """Return whether `available` shows that no sample has this source (keys of an unlisted JSON are unknown)."""
        if self.span is not None and self.span.is_absent(available):
            return True
        if self.member not in available:
            return True
        keys = {name for name in available if name.startswith(f"{self.member}:")}
        return bool(self.path and keys) and f"{self.member}:{self.path[0]}" not in keys


def _parse_json(value: bytes | str, member: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as cause:  # ValueError covers JSONDecodeError and UnicodeDecodeError
        raise BadSample("bad_json", f"member {member!r}: {cause}") from cause


def available_members(members: Mapping[str, Any]) -> set[str]:
    """Return the names in one sample, for `FieldMap.check` and `guess`: members, and `json:KEY` for first-level keys.

    >>> sorted(available_members({"jpg": b"...", "json": b'{"caption": "a boat"}'}))
    ['jpg', 'json', 'json:caption']
    """
    names = set(members)
    for member, value in members.items():
        try:
            parsed = _parse_json(value, member) if member == "json" and value is not None else value
        except BadSample:
            continue  # reported when the sample is decoded; here only the names matter
        if isinstance(parsed, Mapping):
            names.update(f"{member}:{key}" for key in parsed)
    return names


def _read_span(source: FieldSource, members: Mapping[str, object]) -> object:
    if source.member not in members:
        raise BadSample("missing_member", f"no {source} for the time span of the clip")
    return source.read(members[source.member])


@dataclass(frozen=True)
class FieldMap:
    """Where each field is found: `sources[field]` in order of preference.

    >>> field_map = parse_field_map(["image=jpg|png", "text=json:caption"])
    >>> field_map.pick("text", {"jpg": b"...", "json": b'{"caption": "a boat"}'})
    'a boat'
    """

    sources: dict[str, tuple[FieldSource, ...]]

    @property
    def specs(self) -> tuple[str, ...]:
        """The map as the user would write it; `parse_field_map(m.specs) == m`."""
        return tuple(f"{field}={'|'.join(map(str, sources))}" for field, sources in self.sources.items())

    @property
    def members(self) -> frozenset[str]:
        """Every member that may be read: the columns a Parquet reader needs."""
        return frozenset(member for sources in self.sources.values() for source in sources for member in source.members)

    def pick(self, field: str, members: Mapping[str, object]) -> Any:
        """Return the raw value of `field`: the first source present and not null; None if all present are null.

        BadSample `missing_member` where no source's member exists, `bad_json` where its JSON does not parse.
        """
        present = [source for source in self.sources[field] if source.member in members]
        for source in present:
            if (value := source.read(members[source.member])) is not None:
                return ValueWithSpan(value, _read_span(source.span, members)) if source.span else value
        if present:
            return None
        spec = "|".join(map(str, self.sources[field]))
        raise BadSample("missing_member", f"no {spec}; the sample has {', '.join(sorted(members)) or 'nothing'}")

    def check(self, available: set[str]) -> None:
        """Raise CorpusError when a field can never be found among `available` (see `available_members`)."""
        for field, sources in self.sources.items():
            if all(source.is_absent(available) for source in sources):
                spec = "|".join(map(str, sources))
                raise CorpusError(
                    f"field map: {field}={spec} matches nothing in this corpus; "
                    f"{nearest(str(sources[0]), available)}. Map the field to one of these, e.g. {field}=NAME."
                )

    @staticmethod
    def guess(available: set[str], format: str, fields: Iterable[str] = ("image", "text")) -> "FieldMap":
        """Return the map of `fields` by their usual names among `available`; errors name the corpus's `format`.

        CorpusError where none of a field's usual names is available.
        """
        return FieldMap({field: _guess(field, available, format) for field in fields})


def _guess(field: str, available: set[str], format: str) -> tuple[FieldSource, ...]:
    usual = {
        "image": IMAGE_MEMBERS, "video": VIDEO_MEMBERS, "audio": AUDIO_MEMBERS, "text": (*TEXT_MEMBERS, *TEXT_PATHS),
    }.get(field, (field,))  # fmt: skip
    candidates = [_parse_source(name, f"{field}={name}") for name in usual]
    sources = tuple(source for source in candidates if not source.is_absent(available))
    if not sources:
        raise CorpusError(
            f"cannot guess where the {field} of this {format} corpus is: it has "
            f"{', '.join(sorted(available)) or 'no fields'}, none of {', '.join(usual)}. "
            f"Say it in the field map, e.g. {field}=NAME or {field}=json:KEY."
        )
    # a corpus may mix jpg and png samples, but two caption members are two different texts
    return sources if field in ("image", "video", "audio") else sources[:1]


def parse_field_map(specs: Iterable[str]) -> FieldMap:
    """Parse `FIELD=MEMBER` specs; ConfigError names the spec that is wrong.

    >>> parse_field_map(["image=jpg|png", "text=json:caption"]).members == {"jpg", "png", "json"}
    True
    """
    sources: dict[str, tuple[FieldSource, ...]] = {}
    for spec in specs:
        field, equals, alternatives = (part.strip() for part in spec.partition("="))
        if not equals or not field.isidentifier():
            raise ConfigError(f"field map: {spec!r} is not FIELD=MEMBER, e.g. image=jpg|png or text=json:caption")
        if field in sources:
            raise ConfigError(f"field map: {field!r} is given twice; join alternatives with '|' in one spec")
        sources[field] = tuple(_parse_source(source, spec) for source in alternatives.split("|"))
    if not sources:
        raise ConfigError("field map: empty; give at least one FIELD=MEMBER, e.g. image=jpg|png")
    return FieldMap(sources)


def _parse_source(text: str, spec: str) -> FieldSource:
    """Parse one alternative of a spec; `spec` is the whole, for the error."""
    value, at, span = text.partition("@")
    member, colon, path = value.strip().partition(":")
    keys = tuple(path.split(".")) if colon else ()
    if not member or any(not key for key in keys) or "/" in member or "@" in span:
        forms = "MEMBER, MEMBER:KEY.KEY, nor one of them with @MEMBER:KEY for its seconds"
        raise ConfigError(f"field map: {text!r} in {spec!r} is neither {forms}")
    return FieldSource(member.lstrip("."), keys, _parse_source(span, spec) if at else None)
