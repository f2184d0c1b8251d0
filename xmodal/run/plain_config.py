"""Converts configurations to plain JSON values, and compares two of them by dotted field names."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from xmodal.errors import ConfigError

MISSING = "(not set)"  # shown for a field that only one of two configurations has


def to_plain(value: Any, name: str = "config") -> Any:
    """Convert a value to what JSON would return for it; ConfigError names a field that JSON cannot represent.

    >>> to_plain({"size": (224, 224), "path": Path("runs/demo")})
    {'size': [224, 224], 'path': 'runs/demo'}
    """
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
        return [to_plain(inner, f"{name}[{index}]") for index, inner in enumerate(value)]
    raise ConfigError(f"{name} is a {type(value).__name__}, which JSON cannot hold; use numbers, text, lists or tables")


def differences(recorded: object, given: object) -> dict[str, tuple[object, object]]:
    """Return {dotted field: (recorded, given)} for all fields that differ, in the order of the recorded ones.

    >>> differences({"optim": {"lr": 0.1, "steps": 5}}, {"optim": {"lr": 0.2, "steps": 5}})
    {'optim.lr': (0.1, 0.2)}
    """
    old, new = dict(_flat(recorded)), dict(_flat(given))
    return {
        name: (old.get(name, MISSING), new.get(name, MISSING))
        for name in old | new
        if old.get(name, MISSING) != new.get(name, MISSING)
    }


def is_within(name: str, allowed: frozenset[str]) -> bool:
    """Return whether `name` or a table that contains it is allowed.

    >>> is_within("log.every", frozenset({"log"}))
    True
    """
    parts = name.split(".")
    return any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1))


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{name}.{key}" if name else key)
