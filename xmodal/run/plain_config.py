"""Configurations as plain JSON: dataclasses and nested values in, dicts, lists, strings and numbers out; and back to
dotted names for comparing two of them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from xmodal.errors import ConfigError

MISSING = "(not set)"  # how a field that one side does not have is shown


def to_plain(value: Any, name: str = "config") -> Any:
    """The same value as JSON would give it back; ConfigError names a field that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}, which JSON cannot hold; use a finite number, or None")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name), f"{name}.{field.name}") for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner, f"{name}[{place}]") for place, inner in enumerate(value)]
    raise ConfigError(f"{name} is a {type(value).__name__}, which JSON cannot hold; use numbers, text, lists or tables")


def differences(recorded: Any, given: Any) -> dict[str, tuple[Any, Any]]:
    """{dotted field: (recorded, given)} of all fields that differ, in the order of the recorded ones."""
    old, new = dict(_flat(recorded)), dict(_flat(given))
    return {
        name: (old.get(name, MISSING), new.get(name, MISSING))
        for name in old | new
        if old.get(name, MISSING) != new.get(name, MISSING)
    }


def is_within(name: str, allowed: frozenset[str]) -> bool:
    """Whether `name` or a table that holds it is allowed: `log.every` is within `log`."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else key)
