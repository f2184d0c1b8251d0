"""Reads and replaces fields of nested frozen dataclasses by dotted names."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from xmodal.errors import ConfigError, nearest

C = TypeVar("C")


def paths(config: Any, before: str = "") -> Iterator[str]:
    """Yield the dotted name of every field that has a value, in order: `optim.learning_rate`, ..."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{before}{field.name}"
        if is_dataclass(value):
            yield from paths(value, f"{name}.")
        else:
            yield name


def check_path(config: Any, path: str) -> None:
    """Raise ConfigError with the nearest name if there is no such field."""
    names = list(paths(config))
    if path not in names:
        same_end = [name for name in names if name.rpartition(".")[2] == path.rpartition(".")[2]]
        raise ConfigError(f"no field {path!r} in the run's configuration: {nearest(path, same_end or names)}")


def value_at(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part)
    return config


def kinds_at(config: Any, path: str) -> tuple[Any, ...]:
    """Return the types of a field without None: (float,), (Literal[...],), (tuple[float, float],), (int, str)."""
    *folders, last = path.split(".")
    for part in folders:
        config = getattr(config, part)
    hint = get_type_hints(type(config), include_extras=True)[last]
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind is not NoneType)


def may_be_none(config: Any, path: str) -> bool:
    *folders, last = path.split(".")
    for part in folders:
        config = getattr(config, part)
    hint = get_type_hints(type(config))[last]
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """Return a copy with these fields, all replaced at once; raises what the configuration's own checks raise."""
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        first, dot, rest = path.partition(".")
        if dot:
            nested.setdefault(first, {})[rest] = value
        else:
            direct[first] = tuple(value) if isinstance(value, list) else value
    parts = {name: with_values(getattr(config, name), inner) for name, inner in nested.items()}
    return replace(config, **direct, **parts)  # type: ignore[type-var]
