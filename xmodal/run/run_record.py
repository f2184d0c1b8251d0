"""Read everything that a run recorded in its directory; what cannot be read is named instead of left out silently."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from xmodal import storage
from xmodal.errors import CheckpointError, ConfigError, StorageError, nearest
from xmodal.run import Run, open_run, read_metrics, read_quarantine
from xmodal.run.comparison_record import ComparisonRecord, parse_comparison
from xmodal.run.diagnosis_record import DiagnosisRecord, parse_diagnosis
from xmodal.run.directory import RECORD, run_names
from xmodal.run.quarantine import SCHEMA
from xmodal.storage import NotFound, StorageOptions

DEFAULT = StorageOptions()
EVALUATIONS, DIAGNOSES, COMPARISONS = "evaluations", "diagnoses", "comparisons"
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """The content of one file of RUN/evaluations.

    `metrics` have names such as `text_to_image/recall@10`; `interval` and `chance` exist for some of these names.
    """

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
class RunRecord:
    """The content of a run's directory; `problems` says, a line each, what could not be read."""

    run: Run
    metrics: list[dict[str, Any]]  # the lines of metrics.jsonl, in the order of their steps
    quarantine: pa.Table
    evaluations: tuple[EvaluationRecord, ...] = ()
    diagnoses: tuple[DiagnosisRecord, ...] = ()
    comparisons: tuple[ComparisonRecord, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def is_classifier(self) -> bool:
        """Whether the run trained a multimodal classifier; otherwise it trained a dual encoder."""
        return self.config_value("model.classes") is not None

    @property
    def sample_noun(self) -> str:
        """What the rows of the run's corpus are called in a text: "clip" or "pair"."""
        images = self.config_value("model.modalities") == ["image", "text"]
        return "clip" if self.is_classifier and not images else "pair"

    @property
    def last_metrics(self) -> Mapping[str, Any]:
        """The newest line of metrics; empty before the first."""
        return self.metrics[-1] if self.metrics else {}

    def config_value(self, dotted: str, default: Any = None) -> Any:
        """Return a value of the run's configuration by its dotted name, such as `optim.batch_size`."""
        value: Any = self.run.config
        for key in dotted.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value


def read_run_record(uri: str, *, options: StorageOptions = DEFAULT) -> RunRecord:
    """Read the directory of one run; ConfigError with the nearest name where `uri` is not a run."""
    parent, _, name = storage.absolute(uri).rstrip("/").rpartition("/")
    if not storage.exists(storage.join(parent, name, RECORD), options=options):
        hint = _nearest_run(name, parent, options)
        raise ConfigError(f"{uri} is not the directory of a run (it has no {RECORD}){hint}")
    run = open_run(parent, name, options=options)
    problems: list[str] = []
    metrics, quarantine = _read_metrics(run, problems), _read_quarantine(run, problems)
    evaluations = _read_json_folder(run, EVALUATIONS, _parse_evaluation, problems)
    diagnoses = _read_json_folder(run, DIAGNOSES, lambda _, content: parse_diagnosis(content), problems)
    comparisons = _read_json_folder(run, COMPARISONS, lambda _, content: parse_comparison(content), problems)
    return RunRecord(
        run=run,
        metrics=metrics,
        quarantine=quarantine,
        evaluations=tuple(sorted(evaluations, key=lambda record: (record.corpus, -record.step, record.name))),
        diagnoses=tuple(diagnoses),
        comparisons=tuple(comparisons),
        problems=tuple(problems),
    )


def _nearest_run(name: str, parent: str, options: StorageOptions) -> str:
    try:
        return f"; {nearest(name, run_names(parent, options=options))}"
    except StorageError:  # the folder holds other things than runs; the caller's error is the one that matters
        return ""


def _read_metrics(run: Run, problems: list[str]) -> list[dict[str, object]]:
    try:
        lines = read_metrics(run.uri, options=run.options)
    except NotFound:
        return []
    except ValueError as error:
        problems.append(f"metrics.jsonl is damaged: {error}")
        return []
    valid = [line for line in lines if isinstance(line, dict) and _is_number(line.get("step"))]
    if len(valid) < len(lines):
        problems.append(f"metrics.jsonl: {len(lines) - len(valid)} of {len(lines)} lines have no step")
    return sorted(valid, key=lambda line: line["step"])


def _read_quarantine(run: Run, problems: list[str]) -> pa.Table:
    try:
        return read_quarantine(run.uri, options=run.options)
    except (CheckpointError, StorageError, ValueError) as error:  # ValueError: a table with other columns
        problems.append(str(error))
        return SCHEMA.empty_table()


def _read_json_folder(
    run: Run, folder: str, parse: Callable[[str, dict[str, Any]], Record], problems: list[str]
) -> list[Record]:
    """Return what `parse` makes of the name and the content of each JSON file in a folder of the run."""
    try:
        entries = storage.list_files(storage.join(run.uri, folder), options=run.options)
    except NotFound:
        return []
    records = []
    for entry in entries:
        if not entry.uri.endswith(".json"):
            continue
        name = entry.uri.rpartition("/")[2].removesuffix(".json")
        try:
            records.append(parse(name, json.loads(storage.read(entry.uri, options=run.options))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{folder}/{name}.json cannot be used: {type(error).__name__}: {error}")
    return records


def _parse_evaluation(name: str, content: dict[str, Any]) -> EvaluationRecord:
    return EvaluationRecord(
        name=name,
        step=int(content["step"]),
        corpus=str(content.get("corpus", "")),
        fingerprint=str(content.get("fingerprint", "")),
        rows=int(content.get("rows", 0)),
        skipped=int(content.get("skipped", 0)),
        metrics={key: float(value) for key, value in content["metrics"].items() if _is_number(value)},
        interval={key: (float(low), float(high)) for key, (low, high) in content.get("interval", {}).items()},
        chance={key: float(value) for key, value in content.get("chance", {}).items() if _is_number(value)},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
