"""Dotted names of fields of nested frozen dataclasses in; their types, and a configuration with other values, out."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from xmodal.errors import ConfigError, nearest

C = TypeVar("C")


def paths(config: Any, before: str = "") -> Iterator[str]:
    """`optim.learning_rate`, ...: every field that holds a value, in order."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{before}{field.name}"
        if is_dataclass(value):
            yield from paths(value, f"{name}.")
        else:
            yield name


def check_path(config: Any, path: str) -> None:
    """ConfigError with the nearest name for a field that is not there."""
    known = list(paths(config))
    if path not in known:
        same_end = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]]
        raise ConfigError(f"no field {path!r} in the run's configuration: {nearest(path, same_end or known)}")


def value_at(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part)
    return config


def kinds_at(config: Any, path: str) -> tuple[Any, ...]:
    """The types that a field may hold, without None: (float,), (Literal[...],), (tuple[float, float],), (int, str)."""
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


def changed(config: C, values: Mapping[str, Any]) -> C:
    """The same with these fields, all put in at once; raises what the configuration's own checks raise."""
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        first, dot, rest = path.partition(".")
        if dot:
            below.setdefault(first, {})[rest] = value
        else:
            own[first] = tuple(value) if isinstance(value, list) else value
    parts = {name: changed(getattr(config, name), inner) for name, inner in below.items()}
    return replace(config, **own, **parts)  # type: ignore[type-var]
