"""Parses `FIELD=RANGE` into a search space, and checks that the fields of a configuration accept the ranges.

loguniform(1e-4,1e-2)  uniform(0,1)  integers(1,8)  logintegers(16,1024)  choice(dann,mmd)
interval(1,4)  loginterval(0.1,10)
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from xmodal.errors import ConfigError, nearest
from xmodal.search.config_fields import check_path, kinds_at, may_be_none, with_values
from xmodal.search.ranges import ChoiceRange, IntervalRange, NumberRange, Range, Units

C = TypeVar("C")
FORMS = ("uniform", "loguniform", "integers", "logintegers", "choice", "interval", "loginterval")
FIXED = ("run", "resources", "seed")  # what a sweep sets itself
_TEXT = re.compile(r"([A-Za-z_][\w.]*)=([a-z]+)\((.*)\)")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The searched fields by their dotted names, each with its range."""

    ranges: Mapping[str, Range]

    @property
    def size(self) -> int:
        """Return the number of units in [0, 1] that encode a point."""
        return sum(field_range.size for field_range in self.ranges.values())

    def decode(self, units: Sequence[float]) -> dict[str, Any]:
        """Convert units to values by field."""
        values, start = {}, 0
        for path, field_range in self.ranges.items():
            values[path] = field_range.decode(units[start : start + field_range.size])
            start += field_range.size
        return values

    def encode(self, values: Mapping[str, Any]) -> Units | None:
        """Convert values to units; None if a value is missing or outside its range."""
        point: list[float] = []
        for path, field_range in self.ranges.items():
            units = field_range.encode(values[path]) if path in values else None
            if units is None:
                return None
            point += units
        return tuple(point)

    def labels(self) -> list[str]:
        """Return a name for each unit: the field, and for intervals `FIELD low` and `FIELD width`."""
        parts = ("low", "width")
        return [
            f"{path} {parts[k]}" if field_range.size > 1 else path
            for path, field_range in self.ranges.items()
            for k in range(field_range.size)
        ]


def parse_space(texts: Sequence[str], config: Any) -> SearchSpace:
    """Parse a search space; ConfigError for an unknown field, a wrong type, or a range that the field rejects."""
    ranges: dict[str, Range] = {}
    for text in texts:
        path, field_range = _parse(text, config)
        if path in ranges:
            raise ConfigError(f"--search names {path} twice: give one range for each field")
        ranges[path] = field_range
    for path, field_range in ranges.items():
        _check_ends(path, field_range, config)
    return SearchSpace(ranges=ranges)


def _parse(text: str, config: Any) -> tuple[str, Range]:
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--search {text!r} is not FIELD=RANGE, e.g. optim.learning_rate=loguniform(1e-4,1e-2)")
    path, form, inside = match[1], match[2], [part.strip() for part in match[3].split(",") if part.strip()]
    if form not in FORMS:
        raise ConfigError(f"--search {path}: no range {form!r}; {nearest(form, FORMS)}")
    check_path(config, path)
    if path.partition(".")[0] in FIXED:
        raise ConfigError(f"--search {path}: a sweep sets this field itself, so it cannot be searched")
    kinds = kinds_at(config, path)
    if form == "choice":
        return path, ChoiceRange(values=_choices(path, inside, kinds, none=may_be_none(config, path)))
    return path, _numbers(path, form, inside, kinds)


def _numbers(path: str, form: str, inside: list[str], kinds: tuple[Any, ...]) -> Range:
    try:
        low, high = (float(part) for part in inside)
    except ValueError:
        raise ConfigError(
            f"--search {path}: write {form}(LOW,HIGH) with two numbers, not ({','.join(inside)})"
        ) from None
    log, whole, pair = form.startswith("log"), form.endswith("integers"), form.endswith("interval")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"--search {path}: {form}({low:g},{high:g}) needs LOW < HIGH, both finite")
    if log and low <= 0:
        raise ConfigError(f"--search {path}: {form} needs LOW > 0, not {low:g}: there is no order of magnitude of it")
    if whole and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"--search {path}: {form} needs whole numbers, not ({low:g},{high:g})")
    _check_kind(path, form, kinds, whole=whole, pair=pair)
    number = NumberRange(low=low, high=high, log=log, whole=whole)
    return IntervalRange(ends=number) if pair else number


def _check_kind(path: str, form: str, kinds: tuple[Any, ...], *, whole: bool, pair: bool) -> None:
    pairs = any(get_origin(kind) is tuple and get_args(kind) == (float, float) for kind in kinds)
    fits = pairs if pair else (int in kinds if whole else float in kinds)
    if fits:
        return
    fix = (
        "interval(LOW,HIGH)" if pairs
        else "integers(LOW,HIGH)" if int in kinds
        else "uniform(LOW,HIGH)" if float in kinds
        else "choice(A,B)"
    )  # fmt: skip
    raise ConfigError(f"--search {path}: {form} does not fit this field; write {path}={fix}")


def _choices(path: str, inside: list[str], kinds: tuple[Any, ...], *, none: bool) -> tuple[Any, ...]:
    if len(inside) < 2 or len(set(inside)) < len(inside):
        raise ConfigError(f"--search {path}: choice needs at least two values, each once")
    return tuple(_value(path, word, kinds, none=none) for word in inside)


def _value(path: str, word: str, kinds: tuple[Any, ...], *, none: bool) -> Any:
    if none and word.lower() == "none":
        return None
    for kind in kinds:
        if get_origin(kind) is Literal and word in map(str, get_args(kind)):
            return next(value for value in get_args(kind) if str(value) == word)
        if kind is bool and word.lower() in ("true", "false"):
            return word.lower() == "true"
        if kind in (int, float):
            try:
                return kind(word)
            except ValueError:
                continue
        if kind is str:
            return word
    valid = [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    hint = nearest(word, valid) if valid else f"it holds {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}"
    raise ConfigError(f"--search {path}: {word!r} cannot be its value: {hint}")


def _check_ends(path: str, field_range: Range, config: Any) -> None:
    for value in field_range.grid(2):
        try:
            with_values(config, {path: value})
        except ConfigError as error:
            raise ConfigError(f"--search {path}: the run refuses {value}: {error}") from error
