"""What was trained on what: headline numbers of the runs, their set-up, and their configurations side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.formatting import (
    clean_text,
    format_duration,
    format_number,
    format_timestamp,
    pluralize,
)
from xmodal.report.page_data import PageRun
from xmodal.report.sections.evaluation_results import format_metric, is_held_out, metric_label, newest_by_corpus
from xmodal.report.sections.time_spent import time_spent
from xmodal.run.run_record import EvaluationRecord

NO_VALUE = "\u2013"
MAX_HEADLINE_CORPORA = 2
_RETRIEVAL_TASKS = ("text_to_image", "image_to_text", "audio_to_video", "video_to_audio")
HEADLINE_METRICS = (
    *(f"{task}/recall@10" for task in _RETRIEVAL_TASKS),
    "accuracy/multimodal",
    "accuracy/ensemble",
)


@dataclass(frozen=True, kw_only=True)
class StatTile:
    """A headline number; `corpus` names what it was measured on."""

    label: str
    value: str
    note: str = ""
    corpus: str = ""


@dataclass(frozen=True, kw_only=True)
class FactRow:
    """A row of a table with one value for each run; `note` stands below the name."""

    name: str
    values: tuple[str, ...]
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the values are not all equal."""
        return len(set(self.values)) > 1


def headline_tiles(run: PageRun) -> list[StatTile]:
    """Return the headline numbers of a run: results on each corpus, final loss, rows, time."""
    tiles = [tile for record in _headline_evaluations(run) for tile in _result_tiles(run, record)]
    return [*tiles, *_training_tiles(run)]


def _headline_evaluations(run: PageRun) -> list[EvaluationRecord]:
    """Return the run's newest evaluations, on at most MAX_HEADLINE_CORPORA corpora; the newest step first."""
    newest = sorted(newest_by_corpus(run), key=lambda record: -record.step)
    return newest[:MAX_HEADLINE_CORPORA]


def _result_tiles(run: PageRun, record: EvaluationRecord) -> Iterator[StatTile]:
    for name in HEADLINE_METRICS:
        if name in record.metrics:
            chance = f"chance {format_metric(name, record.chance[name])}" if name in record.chance else ""
            label = name.replace("_to_", " → ").replace("/recall@", ", recall@")
            label = f"accuracy, {metric_label(name)}" if name.startswith("accuracy/") else label
            yield StatTile(
                label=label,
                value=format_metric(name, record.metrics[name]),
                note=chance or f"{record.rows:,} rows",
                corpus=f"{_short_corpus_name(record.corpus)} ({_corpus_role(record, run)})",
            )


def _short_corpus_name(uri: str) -> str:
    """Return the last two folders of a corpus URI, which tell corpora of one project apart."""
    return clean_text("/".join(uri.rstrip("/").split("/")[-2:]), 40)


def _corpus_role(record: EvaluationRecord, run: PageRun) -> str:
    return "held out" if is_held_out(record, [run]) else "used in training"


def _training_tiles(run: PageRun) -> Iterator[StatTile]:
    last, noun = run.record.last_metrics, run.record.sample_noun
    if "loss" in last and last["loss"] is not None:
        yield StatTile(
            label="final loss", value=format_number(last["loss"]), note=f"step {format_number(last['step'])}"
        )
    if "rows/delivered" in last:
        quarantined = last.get("rows/quarantined", 0)
        note = f"{format_number(quarantined)} quarantined" if quarantined else "none quarantined"
        yield StatTile(label=f"{noun}s seen", value=format_number(last["rows/delivered"]), note=note)
    spent = time_spent(run.record.metrics, str(run.record.run.record.get("created", "")))
    if spent:
        rate = last.get("samples_per_s")
        pace = f"{format_number(rate)} {noun}s/s at the end" if rate else ""
        yield StatTile(label="wall-clock time", value=format_duration(spent.total_s), note=pace)


def intro_sentences(runs: Sequence[PageRun]) -> list[str]:
    """Return a sentence for each run: which model, trained for how long, on what."""
    return [_intro_sentence(run, len(runs) > 1) for run in runs]


def _intro_sentence(run: PageRun, several: bool) -> str:
    config_value = run.record.config_value
    size = f" ({_model_size(run.parameters)})" if run.parameters else ""
    corpora = [clean_text(uri, 80) for uri in run.record.run.corpora] or ["an unknown corpus"]
    prefix = f"{clean_text(run.name, 40)}: " if several else ""
    steps = format_number(run.record.last_metrics.get("step", 0))
    batch = f"{format_number(config_value('optim.batch_size', '?'))} {run.record.sample_noun}s"
    return (
        f"{prefix}{_model_name(run, 'a model')}{size}, trained for {steps} steps of {batch} on {_workers(run)}, "
        f"with {' and '.join(corpora)}."
    )


def headline_rows(runs: Sequence[PageRun]) -> list[FactRow]:
    """Return the headline numbers of several runs, a row for each number."""
    columns = [{(tile.label, tile.corpus): tile.value for tile in headline_tiles(run)} for run in runs]
    return _rows(columns, NO_VALUE)


def _rows(columns: Sequence[Mapping[tuple[str, str], str]], otherwise: str) -> list[FactRow]:
    """Return one row for each (name, note) of any run, with `otherwise` for runs without it."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return [
        FactRow(name=name, note=note, values=tuple(column.get((name, note), otherwise) for column in columns))
        for name, note in keys
    ]


def setup_rows(runs: Sequence[PageRun]) -> list[FactRow]:
    """Return what was trained on what, with which code, and where."""
    return _rows([{(name, ""): value for name, value in _setup(run)} for run in runs], NO_VALUE)


def _setup(run: PageRun) -> Iterator[tuple[str, str]]:
    record, config_value = run.record.run.record, run.record.config_value
    size = f", {_model_size(run.parameters)}" if run.parameters else ""
    yield "Model", f"{_model_name(run, 'unknown')}{size}"
    yield "Objective", _objective(run)
    batch = format_number(config_value("optim.batch_size", "?"))
    yield "Batch", f"{batch} {run.record.sample_noun}s over {_workers(run)}"
    steps, epochs = run.record.last_metrics.get("step", 0), run.record.last_metrics.get("epoch", 0)
    yield "Training", f"{format_number(steps)} steps, {format_number(epochs, 2)} epochs"
    yield "Precision", clean_text(config_value("optim.precision", "fp32"))
    yield "Seed", clean_text(config_value("seed", NO_VALUE))
    weights = config_value("data.weights") or []
    for k, (uri, fingerprint) in enumerate(dict(record.get("corpora") or {}).items()):
        weight = f", weight {format_number(weights[k])}" if k < len(weights) else ""
        yield f"Corpus {k + 1}", f"{clean_text(uri)} (fingerprint {clean_text(fingerprint)}{weight})"
    if run.checkpoint:
        yield "Checkpoint", f"{clean_text(run.checkpoint)} (step {run.step or 0:,})"
    yield "Started", f"{format_timestamp(record.get('created', ''))}{_resumes(record)}"
    yield from _provenance(record.get("provenance") or {})


def _model_size(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M parameters" if parameters >= 1e5 else f"{parameters:,} parameters"


def _model_name(run: PageRun, otherwise: str) -> str:
    config_value = run.record.config_value
    if not run.record.is_classifier:
        start = "/".join(str(config_value("start_from") or "").rstrip("/").split("/")[-3:])
        return clean_text(config_value("model.architecture", f"dual encoder from {start}" if start else otherwise), 80)
    classes = format_number(len(config_value("model.classes")))
    fusion = clean_text(config_value("model.fusion", "an unknown module"), 40)
    return f"classifier of {classes} classes, fusion by {fusion}"


def _objective(run: PageRun) -> str:
    config_value = run.record.config_value
    if run.record.is_classifier:
        method = clean_text(config_value("balance.method", "unknown"), 40).replace("_", " ")
        space = clean_text(config_value("balance.space"), 40)
        return method if method == "joint" else f"{method}, gradients compared at the {space}"
    names = {"info_nce": "InfoNCE (softmax)", "sigmoid": "sigmoid (SigLIP)"}
    loss = str(config_value("loss.objective", config_value("objective") or "info_nce"))
    words = names.get(loss, clean_text(loss))
    if config_value("domain.loss", "none") != "none":
        schedule = clean_text(config_value("domain.schedule"), 20)
        strength = f"strength {format_number(config_value('domain.strength'))} ({schedule})"
        protocol = f"protocol {clean_text(config_value('target.protocol'), 20)}"
        words += f" + {clean_text(config_value('domain.loss'), 20)}, {strength}, {protocol}"
    return words


def _workers(run: PageRun) -> str:
    workers = run.record.config_value("resources.workers", 1)
    return pluralize(workers, "worker") if isinstance(workers, int) else f"{clean_text(workers)} workers"


def _resumes(record: Mapping[str, Any]) -> str:
    resumes = record.get("resumes") or []
    return f", resumed {pluralize(len(resumes), 'time')}" if resumes else ""


def _provenance(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    commit = str(provenance.get("commit") or "")
    if commit:
        changes = " with uncommitted changes" if commit.endswith("+changes") else ""
        yield "Code", f"commit {clean_text(commit[:12])}{changes}"
    hardware = provenance.get("hardware") or {}
    gpus = ", ".join(clean_text(name) for name in hardware.get("gpus") or []) or "no GPU"
    cores = f"{format_number(hardware.get('cores', '?'))} cores, {format_number(hardware.get('memory_gib', '?'))} GiB"
    system = f"{clean_text(hardware.get('system', ''))} {clean_text(hardware.get('machine', ''))}"
    yield "Hardware", f"{cores}, {gpus}, {system}"
    packages = provenance.get("packages") or {}
    versions = [f"Python {clean_text(provenance.get('python', '?'))}"]
    versions += [f"{clean_text(name)} {clean_text(version)}" for name, version in packages.items()]
    yield "Versions", ", ".join(versions)


def configuration_rows(runs: Sequence[PageRun]) -> list[FactRow]:
    """Return every field of the configurations by its dotted name."""
    columns = [{(clean_text(name), ""): text for name, text in _flatten(run.record.run.config)} for run in runs]
    return _rows(columns, "not set")


def _flatten(value: object, name: str = "") -> Iterable[tuple[str, str]]:
    """Yield (dotted name, value as text) for each field of a nested configuration."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, _setting_text(value)


def _setting_text(value: object) -> str:
    """Return a setting as it is typed on the command line: a list without brackets."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return clean_text(" ".join(_setting_text(item) for item in value))
    return f"{value:.6g}" if isinstance(value, float) else clean_text(value)
