"""The URI of a run in, everything that the run wrote down out; what cannot be read is named, not left out silently."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from xmodal import storage
from xmodal.errors import CheckpointError, ConfigError, StorageError, nearest
from xmodal.run import Run, open_run, read_metrics, read_quarantine
from xmodal.run.diagnosis_record import Diagnosed, diagnosed
from xmodal.run.directory import RECORD, run_names
from xmodal.run.quarantine import SCHEMA
from xmodal.storage import NotFound, StorageOptions

DEFAULT = StorageOptions()
EVALUATIONS, DIAGNOSES = "evaluations", "diagnoses"
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One file of RUN/evaluations: metrics by flat names, with interval and chance by the same names."""

    name: str
    step: int
    corpus: str
    fingerprint: str
    rows: int
    skipped: int
    metrics: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    chance: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run as its directory tells it; `problems` says, a line each, what could not be read."""

    run: Run
    metrics: list[dict[str, Any]]
    quarantine: pa.Table
    evaluations: tuple[Evaluated, ...] = ()
    diagnoses: tuple[Diagnosed, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def classifier(self) -> bool:
        """Whether it trained a classifier (the second stage), not encoders that find pairs."""
        return self.configured("model.classes") is not None

    @property
    def thing(self) -> str:
        """What its rows are called."""
        return "clip" if self.classifier else "pair"

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest line of metrics; empty before the first."""
        return self.metrics[-1] if self.metrics else {}

    def configured(self, dotted: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted name."""
        value: Any = self.run.config
        for key in dotted.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value


def read_run(uri: str, *, options: StorageOptions = DEFAULT) -> Recorded:
    """Everything in the directory of one run; ConfigError with the nearest name where `uri` is no run."""
    place, _, name = storage.absolute(uri).rstrip("/").rpartition("/")
    if not storage.exists(storage.join(place, name, RECORD), options=options):
        raise ConfigError(f"{uri} is not the directory of a run (it has no {RECORD}){_near(name, place, options)}")
    run = open_run(place, name, options=options)
    problems: list[str] = []
    return Recorded(
        run=run,
        metrics=_metrics(run, problems),
        quarantine=_quarantine(run, problems),
        evaluations=tuple(
            sorted(_records(run, EVALUATIONS, _evaluated, problems), key=lambda one: (one.corpus, -one.step, one.name))
        ),
        diagnoses=tuple(_records(run, DIAGNOSES, lambda _, record: diagnosed(record), problems)),
        problems=tuple(problems),
    )


def _near(name: str, place: str, options: StorageOptions) -> str:
    try:
        return f"; {nearest(name, run_names(place, options=options))}"
    except StorageError:  # what lies beside it is no run's, and hides nothing that matters
        return ""


def _metrics(run: Run, problems: list[str]) -> list[dict[str, Any]]:
    try:
        lines = read_metrics(run.uri, options=run.options)
    except NotFound:
        return []
    except ValueError as error:
        problems.append(f"metrics.jsonl is damaged: {error}")
        return []
    whole = [line for line in lines if isinstance(line, dict) and _is_number(line.get("step"))]
    if len(whole) < len(lines):
        problems.append(f"metrics.jsonl: {len(lines) - len(whole)} of {len(lines)} lines have no step")
    return sorted(whole, key=lambda line: line["step"])


def _quarantine(run: Run, problems: list[str]) -> pa.Table:
    try:
        return read_quarantine(run.uri, options=run.options)
    except (CheckpointError, StorageError, ValueError) as error:  # ValueError: a table with other columns
        problems.append(str(error))
        return SCHEMA.empty_table()


def _records(run: Run, folder: str, read: Callable[[str, dict[str, Any]], Made], problems: list[str]) -> list[Made]:
    """What a folder of JSON files holds, file by file."""
    try:
        entries = storage.list_files(storage.join(run.uri, folder), options=run.options)
    except NotFound:
        return []
    found = []
    for entry in entries:
        if not entry.uri.endswith(".json"):
            continue
        name = entry.uri.rpartition("/")[2].removesuffix(".json")
        try:
            found.append(read(name, json.loads(storage.read(entry.uri, options=run.options))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{folder}/{name}.json cannot be used: {type(error).__name__}: {error}")
    return found


def _evaluated(name: str, record: dict[str, Any]) -> Evaluated:
    return Evaluated(
        name=name,
        step=int(record["step"]),
        corpus=str(record.get("corpus", "")),
        fingerprint=str(record.get("fingerprint", "")),
        rows=int(record.get("rows", 0)),
        skipped=int(record.get("skipped", 0)),
        metrics={key: float(value) for key, value in record["metrics"].items() if _is_number(value)},
        interval={key: (float(low), float(high)) for key, (low, high) in record.get("interval", {}).items()},
        chance={key: float(value) for key, value in record.get("chance", {}).items() if _is_number(value)},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
