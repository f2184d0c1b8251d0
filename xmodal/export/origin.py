"""A checkpoint and what its run wrote down in, what a model card says of it out; no place on the author's disk."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.formatting import clean, moment, number
from xmodal.report.sections.evaluation_results import label, newest, shown
from xmodal.run.run_record import Evaluated

PRIVATE = ("runs", "resume", "cadence", "resources", "data.endpoint", "data.region", "data.profile", "data.anonymous",
           "data.index", "data.tasks_per_segment")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number; `value`, `low` and `high` as they are, the rest as text."""

    name: str
    label: str
    value: float
    text: str
    interval: str
    chance: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on one corpus at the exported step."""

    corpus: str
    fingerprint: str
    rows: int
    skipped: int
    figures: tuple[Figure, ...]


def measured(evaluations: Sequence[Evaluated], step: int) -> list[Measured]:
    """The evaluations of these weights, corpus by corpus; those of other steps say nothing about them."""
    corpora: dict[str, list[Evaluated]] = {}
    for one in evaluations:
        if one.step == step:
            corpora.setdefault(one.fingerprint or one.corpus, []).append(one)
    return [_measured(found) for found in corpora.values()]


def _measured(found: Sequence[Evaluated]) -> Measured:
    one = newest(found)
    assert one is not None
    return Measured(
        corpus=place(one.corpus),
        fingerprint=clean(one.fingerprint),
        rows=one.rows,
        skipped=one.skipped,
        figures=tuple(_figure(one, name) for name in one.metrics),
    )


def _figure(one: Evaluated, name: str) -> Figure:
    ends = one.interval.get(name)
    return Figure(
        name=name,
        label=label(name),
        value=one.metrics[name],
        text=shown(name, one.metrics[name]),
        interval="" if ends is None else " to ".join(shown(name, end) for end in ends),
        chance=shown(name, one.chance[name]) if name in one.chance else "",
    )


def other_steps(evaluations: Sequence[Evaluated], step: int) -> list[int]:
    """Steps that were evaluated, but not exported."""
    return sorted({one.step for one in evaluations} - {step})


def facts(record: Mapping[str, Any], at: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained on what with which code, a line each, from `run.json` and the metrics at the exported step."""
    made = [(f"Corpus {n}", f"{code(place(uri))}, fingerprint {code(mark)}") for n, (uri, mark) in _corpora(record)]
    config = record.get("config") or {}
    optim = config.get("optim") or {}
    if "rows/delivered" in at:
        bad = at.get("rows/quarantined") or 0
        made.append(("Pairs seen", f"{number(at['rows/delivered'])} ({number(bad)} more were quarantined)"))
    if "batch_size" in optim:
        made.append(("Batch", f"{number(optim['batch_size'])} pairs, {cell(optim.get('precision', ''))}"))
    if "created" in record:
        made.append(("Started", cell(moment(record["created"]))))
    return made + list(_code(record.get("provenance") or {}))


def _corpora(record: Mapping[str, Any]) -> list[tuple[int, tuple[str, str]]]:
    return list(enumerate(dict(record.get("corpora") or {}).items(), 1))


def _code(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    made = []
    if provenance.get("commit"):
        made.append(("Code", f"commit {code(provenance['commit'])}"))
    if packages := provenance.get("packages"):
        versions = [
            f"Python {cell(provenance.get('python', '?'))}",
            *(f"{cell(k)} {cell(v)}" for k, v in packages.items()),
        ]
        made.append(("Versions", ", ".join(versions)))
    if hardware := provenance.get("hardware"):
        gpus = ", ".join(cell(name) for name in hardware.get("gpus") or []) or "no GPU"
        cores = f"{number(hardware.get('cores', '?'))} cores, {number(hardware.get('memory_gib', '?'))} GiB"
        made.append(("Hardware of the driver", f"{cores}, {gpus}"))
    return made


def settings(record: Mapping[str, Any]) -> Any:
    """The run's configuration without what concerns the author's storage and cluster."""
    return _without(record.get("config") or {}, "")


def _without(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        inner = {key: (f"{name}.{key}" if name else str(key), each) for key, each in value.items()}
        return {key: _without(each, full) for key, (full, each) in inner.items() if full not in PRIVATE}
    if isinstance(value, list | tuple):
        return [_without(each, name) for each in value]
    if isinstance(value, str):
        head, equals, tail = value.rpartition("=")  # image=/models/vit
        return f"{head}{equals}{place(tail)}"
    return value


def place(uri: str) -> str:
    """A corpus as a stranger may know it: a URI as it is, a local folder by its last name."""
    text = clean(uri)
    if re.match(r"s3://", text) or not text.startswith(("/", "file://")):
        return text
    return text.rstrip("/").rpartition("/")[2] or text


def code(value: Any) -> str:
    """Text of a stranger as a span of code, in a line or a cell: nothing of it is markup."""
    return f"`{clean(value).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def cell(value: Any) -> str:
    """Text of a stranger in a line or a cell of Markdown: nothing of it is markup."""
    text = clean(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for mark in "|`*_[]":
        text = text.replace(mark, f"\\{mark}")
    return text
