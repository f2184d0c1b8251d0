"""What a model card says about a checkpoint's origin and results, without paths on its author's machine."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.formatting import clean_text, format_number, format_timestamp
from xmodal.report.sections.evaluation_results import format_metric, metric_label, newest_evaluation
from xmodal.run.run_record import EvaluationRecord

PRIVATE_SETTINGS = (
    "run.runs", "run.resume", "runs", "resume", "cadence", "logging", "checkpoints", "resources",
    "storage", "data.storage",
    "data.endpoint", "data.region", "data.profile", "data.anonymous", "data.index", "data.tasks_per_segment",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CardMetric:
    """One metric of a card: its value, and the texts that the card shows."""

    name: str
    label: str
    value: float
    text: str
    interval: str
    chance: str


@dataclass(frozen=True, kw_only=True)
class CardResults:
    """The results on one corpus at the exported step."""

    corpus: str
    fingerprint: str
    rows: int
    skipped: int
    metrics: tuple[CardMetric, ...]


def results_at_step(evaluations: Sequence[EvaluationRecord], step: int) -> list[CardResults]:
    """Return the results of the exported weights on each corpus; evaluations of other steps are left out."""
    corpora: dict[str, list[EvaluationRecord]] = {}
    for record in evaluations:
        if record.step == step:
            corpora.setdefault(record.fingerprint or record.corpus, []).append(record)
    merged = [newest_evaluation(records) for records in corpora.values()]
    return [_corpus_results(record) for record in merged if record is not None]


def _corpus_results(record: EvaluationRecord) -> CardResults:
    return CardResults(
        corpus=public_name(record.corpus),
        fingerprint=clean_text(record.fingerprint),
        rows=record.rows,
        skipped=record.skipped,
        metrics=tuple(_card_metric(record, name) for name in record.metrics),
    )


def _card_metric(record: EvaluationRecord, name: str) -> CardMetric:
    return CardMetric(
        name=name,
        label=metric_label(name),
        value=record.metrics[name],
        text=format_metric(name, record.metrics[name]),
        interval=" to ".join(format_metric(name, end) for end in record.interval.get(name, ())),
        chance=format_metric(name, record.chance[name]) if name in record.chance else "",
    )


def other_evaluated_steps(evaluations: Sequence[EvaluationRecord], step: int) -> list[int]:
    """Return the steps that were evaluated but are not the exported one."""
    return sorted({record.step for record in evaluations} - {step})


def training_facts(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was trained on what with which code, as (name, value in Markdown).

    `record` is the content of `run.json`, `metrics` the metrics at the exported step.
    """
    corpora = dict(record.get("corpora") or {})
    rows = [
        (f"Corpus {number}", f"{markdown_code(public_name(uri))}, fingerprint {markdown_code(fingerprint)}")
        for number, (uri, fingerprint) in enumerate(corpora.items(), 1)
    ]
    optim = (record.get("config") or {}).get("optim") or {}
    if "rows/delivered" in metrics:
        quarantined = format_number(metrics.get("rows/quarantined") or 0)
        rows.append(("Pairs seen", f"{format_number(metrics['rows/delivered'])} ({quarantined} more were quarantined)"))
    if "batch_size" in optim:
        precision = markdown_text(optim.get("precision", ""))
        rows.append(("Batch", f"{format_number(optim['batch_size'])} pairs, {precision}"))
    if "created" in record:
        rows.append(("Started", markdown_text(format_timestamp(record["created"]))))
    return [*rows, *_provenance(record.get("provenance") or {})]


def _provenance(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if provenance.get("commit"):
        yield "Code", f"commit {markdown_code(provenance['commit'])}"
    if packages := provenance.get("packages"):
        versions = [f"Python {markdown_text(provenance.get('python', '?'))}"]
        versions += [f"{markdown_text(name)} {markdown_text(version)}" for name, version in packages.items()]
        yield "Versions", ", ".join(versions)
    if hardware := provenance.get("hardware"):
        gpus = ", ".join(markdown_text(name) for name in hardware.get("gpus") or []) or "no GPU"
        cores, memory = format_number(hardware.get("cores", "?")), format_number(hardware.get("memory_gib", "?"))
        yield "Hardware of the driver", f"{cores} cores, {memory} GiB, {gpus}"


def public_settings(record: Mapping[str, Any]) -> object:
    """Return the run's configuration without PRIVATE_SETTINGS, which concern the author's storage and cluster."""
    return _without_private(record.get("config") or {}, "")


def _without_private(value: Any, name: str) -> object:
    if isinstance(value, Mapping):
        inner = {key: (f"{name}.{key}" if name else str(key), each) for key, each in value.items()}
        return {
            key: _without_private(each, dotted)
            for key, (dotted, each) in inner.items()
            if dotted not in PRIVATE_SETTINGS
        }
    if isinstance(value, list | tuple):
        return [_without_private(each, name) for each in value]
    if isinstance(value, str):
        head, equals, tail = value.rpartition("=")  # image=/models/vit
        return f"{head}{equals}{public_name(tail)}"
    return value


def public_name(uri: str) -> str:
    """Return a URI as it is, or the last folder of a local path, which may be published.

    >>> public_name("s3://bucket/laion"), public_name("/home/alice/shards/train")
    ('s3://bucket/laion', 'train')
    """
    text = clean_text(uri)
    if re.match(r"s3://", text) or not text.startswith(("/", "file://")):
        return text
    return text.rstrip("/").rpartition("/")[2] or text


def markdown_code(value: Any) -> str:
    """Return untrusted text as a code span of Markdown, for a line or a table cell.

    >>> markdown_code("a`b")
    "`a'b`"
    """
    return f"`{clean_text(value).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def markdown_text(value: Any) -> str:
    """Return untrusted text for a line or a table cell of Markdown, with all markup escaped.

    >>> print(markdown_text("<b> *a*"))
    &lt;b> \\*a\\*
    """
    text = clean_text(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for character in "|`*_[]":
        text = text.replace(character, f"\\{character}")
    return text
