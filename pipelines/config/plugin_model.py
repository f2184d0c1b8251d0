"""Options of an architecture that a plugin has registered, derived from the signature of its factory."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import Field, field, fields, make_dataclass
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from pipelines.config.model import ModelConfig
from xmodal.errors import ConfigError, nearest
from xmodal.plugins import has_plugins, load_plugins, plugin_modules

PREFIX = "model."  # of the flags: --model.width
FROM_TOKENIZER = frozenset({"vocab_size", "bos_id", "eos_id", "pad_id"})  # arguments that the run sets itself


def plugin_model(architecture: str, built_in: Iterable[str]) -> ModelConfig:
    """Return the default of an architecture that a plugin has registered.

    Raises ConfigError with the nearest of all names for an unknown one.
    """
    architectures = _plugin_architectures()
    if architecture not in architectures:
        raise ConfigError(
            f"unknown architecture {architecture!r}; {nearest(architecture, {*architectures, *built_in})}"
        )
    missing = {field.name: tyro.MISSING for field in fields(_options_class(architecture)) if _is_required(field)}
    return _options_class(architecture)(**{**missing, "architecture": architecture})


def _plugin_architectures() -> Iterable[str]:
    """Return the names of all architectures; without a plugin there are no others, and torch need not be imported."""
    if not has_plugins():
        return ()
    from xmodal.encoders.architectures import ARCHITECTURES

    return ARCHITECTURES


def _is_required(option: "Field[Any]") -> bool:
    return option.name != "architecture" and option.metadata.get("required", False)


@cache
def _options_class(architecture: str) -> type[ModelConfig]:
    """Return a configuration with a field for each keyword argument of the architecture's factory."""
    from xmodal.encoders.architectures import ARCHITECTURES

    factory = ARCHITECTURES[architecture]
    hints = get_type_hints(getattr(factory, "func", factory))
    options: list[Any] = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if name not in FROM_TOKENIZER and parameter.kind is parameter.KEYWORD_ONLY:
            flag = tyro.conf.arg(name=f"{PREFIX}{name.replace('_', '-')}")
            kind: Any = Annotated[_flag_type(hints.get(name, str)), flag]
            options.append((name, kind, _field_of(parameter)))
    summary = (inspect.getdoc(factory) or f"The options of {architecture}.").partition("\n")[0]
    namespace = {"__doc__": summary, "__reduce__": _reduce}
    return make_dataclass(architecture, options, bases=(ModelConfig,), namespace=namespace, frozen=True, kw_only=True)


def _flag_type(hint: Any) -> object:
    """Return the type of a flag: Sequence[int] becomes tuple[int, ...], so that values can be compared."""
    return GenericAlias(tuple, (get_args(hint)[0], ...)) if get_origin(hint) is Sequence else hint


def _field_of(parameter: inspect.Parameter) -> object:
    if parameter.default is parameter.empty:
        return field(metadata={"required": True})
    default = parameter.default
    return field(default=tuple(default) if isinstance(default, list) else default)


def _reduce(model: ModelConfig) -> tuple[object, ...]:
    """Pickle a model by the name of its architecture, since its class exists only where the plugin is loaded."""
    values = {field.name: getattr(model, field.name) for field in fields(model)}
    return restore_plugin_model, (plugin_modules(), values)


def restore_plugin_model(plugins: tuple[str, ...], values: dict[str, Any]) -> ModelConfig:
    """Return the configuration of a plugin's architecture that another process has sent."""
    load_plugins(plugins)
    return _options_class(values["architecture"])(**values)
