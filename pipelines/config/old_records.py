"""Upgrade the configuration of a run or a sweep that was recorded by an earlier version to today's field names.

run.json holds the configuration with which a run was started, and --resume compares it with the present one. Up to
version 0.1.0 a run's name, its storage options and its logging lay on other fields, and the options of an architecture
were text: `{"arguments": ["width=256"]}`.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pipelines.config.architectures import ARCHITECTURES
from pipelines.config.classifier import ClassifierConfig
from pipelines.config.data import DataConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.model import ModelConfig
from pipelines.config.run import RunOptions
from xmodal.run.plain_config import to_plain
from xmodal.storage import StorageOptions

Record = dict[str, Any]
_CLASSIFIER = to_plain(ClassifierConfig())
_SHUFFLE = {name: value for name, value in to_plain(DataConfig(corpus=("",))).items() if name.startswith("shuffle")}
_OF_TEXT = {name: _CLASSIFIER[name] for name in ("modalities", "tokenizer", "vocab_size", "context")}


def upgrade_run(config: Mapping[str, Any]) -> Record:
    """Return the configuration of a run by today's field names; one that has them already is returned unchanged."""
    upgraded = dict(config)
    if "run" not in upgraded:
        upgraded = _nest(upgraded, "run", _names(RunOptions))
    if "cadence" in upgraded:
        cadence = upgraded.pop("cadence")
        upgraded["logging"] = _select(cadence, _names(LoggingConfig))
        upgraded["checkpoints"] = _select(cadence, _names(CheckpointConfig))
    if isinstance(upgraded.get("data"), Mapping) and "storage" not in upgraded["data"]:
        upgraded["data"] = _nest(upgraded["data"], "storage", _names(StorageOptions))
    if isinstance(upgraded.get("data"), Mapping) and "shuffle" not in upgraded["data"]:  # there was one order
        upgraded["data"] = {**_SHUFFLE, **upgraded["data"], "shuffle": "task"}
    if "fusion" in (upgraded.get("model") or {}):  # a classifier; before there were texts, it was one of clips
        upgraded["model"] = {**_OF_TEXT, **upgraded["model"]}
    if "arguments" in (upgraded.get("model") or {}):
        upgraded["model"] = _upgrade_model(upgraded["model"])
    return upgraded


def upgrade_sweep(config: Mapping[str, Any]) -> Record:
    """Return the configuration of a sweep by today's field names, with the one of the run that is swept."""
    upgraded = dict(config) if "sweep" in config else _nest(config, "sweep", _names(RunOptions))
    upgraded = {"algorithm_options": [], "scheduler_options": [], **upgraded}  # there were none of these
    if isinstance(upgraded.get("run"), Mapping):
        upgraded["run"] = upgrade_run(upgraded["run"])
    return upgraded


def _names(options: type) -> list[str]:
    return [field.name for field in fields(options)]


def _select(values: Mapping[str, Any], names: list[str]) -> Record:
    return {name: values[name] for name in names if name in values}


def _nest(values: Mapping[str, Any], table: str, names: list[str]) -> Record:
    """Return `values` with those of `names` moved into a table of their own."""
    rest = {name: value for name, value in values.items() if name not in names}
    nested = _select(values, names)
    return {**rest, table: nested} if nested else rest


def _upgrade_model(model: Mapping[str, Any]) -> Record:
    """Return the model with a field for each option of its architecture, set as its `arguments` say."""
    common = _select(model, _names(ModelConfig))
    default = ARCHITECTURES.get(model["architecture"])
    options: Record = {}
    if default is not None:
        options = {name: value for name, value in to_plain(default).items() if name not in common}
    for argument in model["arguments"]:
        name, _, text = argument.partition("=")
        value = _parse(text)
        options[name] = [value] if isinstance(options.get(name), list) and not isinstance(value, list) else value
    return {**common, **options}


def _parse(text: str) -> Any:
    """Return the number, truth value or list of numbers that `text` spells, else the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return [kind(part) for part in text.split(",")] if "," in text else kind(text)
        except ValueError:
            continue
    return text
