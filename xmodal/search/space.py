"""`FIELD=RANGE` in words and a configuration in, the space that is searched out; refuses what the field cannot hold.

loguniform(1e-4,1e-2)  uniform(0,1)  integers(1,8)  logintegers(16,1024)  choice(dann,mmd)
interval(1,4)  loginterval(0.1,10)
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from xmodal.errors import ConfigError, nearest
from xmodal.search.config_fields import changed, check_path, kinds_at, may_be_none
from xmodal.search.ranges import Choice, Interval, Number, Range, Units

C = TypeVar("C")
FORMS = ("uniform", "loguniform", "integers", "logintegers", "choice", "interval", "loginterval")
FIXED = ("name", "runs", "resume", "seed")  # the sweep's own affair
_TEXT = re.compile(r"([A-Za-z_][\w.]*)=([a-z]+)\((.*)\)")


@dataclass(frozen=True, kw_only=True)
class Space:
    """Swept fields by their dotted names, each with its range."""

    ranges: Mapping[str, Range]

    @property
    def size(self) -> int:
        """Numbers in [0, 1] that say a point."""
        return sum(one.size for one in self.ranges.values())

    def decode(self, units: Sequence[float]) -> dict[str, Any]:
        found, at = {}, 0
        for path, one in self.ranges.items():
            found[path] = one.decode(units[at : at + one.size])
            at += one.size
        return found

    def encode(self, values: Mapping[str, Any]) -> Units | None:
        """None where a value is missing or outside of its range."""
        found: list[float] = []
        for path, one in self.ranges.items():
            units = one.encode(values[path]) if path in values else None
            if units is None:
                return None
            found += units
        return tuple(found)

    def labels(self) -> list[str]:
        """A name for each unit: that of the field, of an interval those of its ends."""
        parts = ("low", "width")
        return [
            f"{path} {parts[k]}" if one.size > 1 else path for path, one in self.ranges.items() for k in range(one.size)
        ]


def parse_space(texts: Sequence[str], config: Any) -> Space:
    """ConfigError for an unknown field (with the nearest), a wrong type, or a range that the field refuses."""
    ranges: dict[str, Range] = {}
    for text in texts:
        path, one = _parse(text, config)
        if path in ranges:
            raise ConfigError(f"--search names {path} twice: give one range for each field")
        ranges[path] = one
    for path, one in ranges.items():
        _check_ends(path, one, config)
    return Space(ranges=ranges)


def _parse(text: str, config: Any) -> tuple[str, Range]:
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--search {text!r} is not FIELD=RANGE, e.g. optim.learning_rate=loguniform(1e-4,1e-2)")
    path, form, inside = found[1], found[2], [part.strip() for part in found[3].split(",") if part.strip()]
    if form not in FORMS:
        raise ConfigError(f"--search {path}: no range {form!r}; {nearest(form, FORMS)}")
    check_path(config, path)
    if path in FIXED or path.startswith("resources."):
        raise ConfigError(f"--search {path}: that is the sweep's own affair, not a field to search")
    kinds = kinds_at(config, path)
    if form == "choice":
        return path, Choice(values=_choices(path, inside, kinds, none=may_be_none(config, path)))
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
    number = Number(low=low, high=high, log=log, whole=whole)
    return Interval(ends=number) if pair else number


def _check_kind(path: str, form: str, kinds: tuple[Any, ...], *, whole: bool, pair: bool) -> None:
    pairs = any(get_origin(kind) is tuple and get_args(kind) == (float, float) for kind in kinds)
    fits = pairs if pair else (int in kinds if whole else float in kinds)
    if fits:
        return
    mend = (
        "interval(LOW,HIGH)" if pairs
        else "integers(LOW,HIGH)" if int in kinds
        else "uniform(LOW,HIGH)" if float in kinds
        else "choice(A,B)"
    )  # fmt: skip
    raise ConfigError(f"--search {path}: {form} does not fit this field; write {path}={mend}")


def _choices(path: str, inside: list[str], kinds: tuple[Any, ...], *, none: bool) -> tuple[Any, ...]:
    if len(inside) < 2 or len(set(inside)) < len(inside):
        raise ConfigError(f"--search {path}: choice needs at least two values, each once")
    return tuple(_value(path, word, kinds, none=none) for word in inside)


def _value(path: str, word: str, kinds: tuple[Any, ...], *, none: bool) -> Any:
    if none and word.lower() == "none":
        return None
    for kind in kinds:
        if get_origin(kind) is Literal and word in map(str, get_args(kind)):
            return next(one for one in get_args(kind) if str(one) == word)
        if kind is bool and word.lower() in ("true", "false"):
            return word.lower() == "true"
        if kind in (int, float):
            try:
                return kind(word)
            except ValueError:
                continue
        if kind is str:
            return word
    valid = [str(one) for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
    told = nearest(word, valid) if valid else f"it holds {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}"
    raise ConfigError(f"--search {path}: {word!r} cannot be its value: {told}")


def _check_ends(path: str, one: Range, config: Any) -> None:
    for value in one.grid(2):
        try:
            changed(config, {path: value})
        except ConfigError as error:
            raise ConfigError(f"--search {path}: the run refuses {value}: {error}") from error
