"""Find the architecture of a model among the words of a command line, and check the flags of its options."""

from collections.abc import Sequence
from dataclasses import fields

from pipelines.config.architectures import ARCHITECTURES, default_of
from pipelines.config.model import ModelConfig
from pipelines.config.plugin_model import PREFIX
from xmodal.errors import ConfigError, nearest

ARCHITECTURE, REMOVED = "--architecture", "--arguments"


def model_of_flags(preset: ModelConfig, words: Sequence[str]) -> ModelConfig:
    """Return the model whose options the flags may set: the preset's, or the default of another --architecture.

    Raises ConfigError for an unknown architecture, an option that it does not have, and the removed --arguments.
    """
    name = _value_of(ARCHITECTURE, words)
    model = preset if name in (None, preset.architecture) else _with_common_fields(default_of(name), preset)
    _refuse_arguments(words)
    for word in words:
        if word.startswith(f"--{PREFIX}"):
            _check_option(word.partition("=")[0], model)
    return model


def option_flags(model: ModelConfig) -> list[str]:
    """Return the flags of an architecture's own options, e.g. --model.image-size."""
    return [_flag(name) for name in _options(model)]


def _options(model: ModelConfig) -> list[str]:
    common = {field.name for field in fields(ModelConfig)}
    return [field.name for field in fields(model) if field.name not in common]


def _flag(option: str) -> str:
    return f"--{PREFIX}{option.replace('_', '-')}"


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    """Return what follows a flag, as its own word or behind `=`."""
    for place, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and place + 1 < len(words):
            return words[place + 1]
    return None


def _with_common_fields(model: ModelConfig, preset: ModelConfig) -> ModelConfig:
    """Return `model` with what the preset says of every architecture, e.g. the size of the vocabulary."""
    common = {field.name: getattr(preset, field.name) for field in fields(ModelConfig)}
    options = {name: getattr(model, name) for name in _options(model)}
    return type(model)(**{**common, **options, "architecture": model.architecture})


def _check_option(flag: str, model: ModelConfig) -> None:
    """Raise ConfigError with the nearest flag, and with the architectures that would have this one."""
    if flag in option_flags(model):
        return
    owners = [name for name, other in ARCHITECTURES.items() if flag in option_flags(other)]
    of = f" (an option of {', '.join(owners)})" if owners else ""
    raise ConfigError(f"{model.architecture} has no option {flag}{of}: {nearest(flag, option_flags(model))}")


def _refuse_arguments(words: Sequence[str]) -> None:
    """Raise ConfigError with today's spelling for `--arguments NAME=VALUE ...`."""
    if not any(word.partition("=")[0] == REMOVED for word in words):
        return
    place = next(n for n, word in enumerate(words) if word.partition("=")[0] == REMOVED)
    given = [word for word in (words[place].partition("=")[2], *words[place + 1 :]) if word]
    end = next((n for n, word in enumerate(given) if word.startswith("--")), len(given))
    pairs = [word.partition("=") for word in given[:end] if "=" in word] or [("width", "=", "256")]
    spelling = " ".join(f"{_flag(name)} {value.replace(',', ' ')}" for name, _, value in pairs)
    raise ConfigError(
        f"{REMOVED} is gone, since every option of an architecture has a flag of its own: write {spelling}"
    )
