"""Evaluation results: a chart and a table for each corpus, with intervals and chance levels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from xmodal.formatting import Number, clean_text, format_number, format_percent
from xmodal.report.charts.figures import IntervalMark, IntervalRow, interval_chart
from xmodal.report.page_data import PageRun
from xmodal.run.run_record import EvaluationRecord

TASKS = {
    "text_to_image": "text → image",
    "image_to_text": "image → text",
    "audio_to_video": "audio → video",
    "video_to_audio": "video → audio",
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
}
_TASK_ORDER = [*TASKS, "accuracy"]
HEADS = {"multimodal": "all modalities", "ensemble": "mean of heads"}  # of a classifier; others are one modality's
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class ResultCell:
    """A value with its interval, where it has one, as text."""

    value: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """A metric: one cell for each run, None where the run has no such value."""

    label: str
    cells: tuple[ResultCell | None, ...]
    chance: str


@dataclass(frozen=True, kw_only=True)
class CorpusResults:
    """The results of all runs on one corpus."""

    corpus: str
    tasks: str  # what was evaluated, such as "Retrieval"
    held_out: bool  # no run of the page was trained on the corpus
    about: tuple[str, ...]  # for each run: number of rows, step
    chart: Markup | None
    rows: tuple[ResultRow, ...]


def corpus_results(runs: Sequence[PageRun]) -> list[CorpusResults]:
    """Return the results for each corpus that some run was evaluated on; of each run those at its newest step."""
    return [_corpus_results(runs, [newest_evaluation(records) for records in by_run]) for by_run in _by_corpus(runs)]


def _by_corpus(runs: Sequence[PageRun]) -> Iterable[list[list[EvaluationRecord]]]:
    """Return the evaluations of each corpus: a list for each run."""
    corpora: dict[str, list[list[EvaluationRecord]]] = {}
    for k, run in enumerate(runs):
        for record in run.evaluations:
            corpora.setdefault(record.fingerprint or record.corpus, [[] for _ in runs])[k].append(record)
    return corpora.values()


def newest_evaluation(records: Sequence[EvaluationRecord]) -> EvaluationRecord | None:
    """Return the evaluation at the last step, merged from all files of that step; None for no records."""
    if not records:
        return None
    last_step = max(record.step for record in records)
    parts = [record for record in records if record.step == last_step]
    return EvaluationRecord(
        name=parts[0].name,
        step=last_step,
        corpus=parts[0].corpus,
        fingerprint=parts[0].fingerprint,
        rows=max(record.rows for record in parts),
        skipped=max(record.skipped for record in parts),
        metrics=_merge(record.metrics for record in parts),
        interval=_merge(record.interval for record in parts),
        chance=_merge(record.chance for record in parts),
    )


def _merge(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}


def newest_by_corpus(run: PageRun) -> list[EvaluationRecord]:
    """Return the newest evaluation of a run on each corpus."""
    return [record for (records,) in _by_corpus([run]) if (record := newest_evaluation(records)) is not None]


def is_held_out(record: EvaluationRecord, runs: Sequence[PageRun]) -> bool:
    """Return whether no run was trained on the corpus of the evaluation."""
    corpora = [run.record.run.corpora for run in runs]
    trained_on = {name for uris in corpora for pair in uris.items() for name in pair}
    return not trained_on & {record.fingerprint, record.corpus}


def _corpus_results(runs: Sequence[PageRun], records: Sequence[EvaluationRecord | None]) -> CorpusResults:
    present = [record for record in records if record is not None]
    names = sorted({name for record in present for name in record.metrics}, key=_sort_key)
    rows = [_interval_row(name, runs, records) for name in names if is_share(name)]
    corpus = clean_text(present[0].corpus)
    return CorpusResults(
        corpus=corpus,
        tasks=" and ".join(dict.fromkeys(_tasks(names))).capitalize(),
        held_out=is_held_out(present[0], runs),
        about=tuple(_about(run, record, len(runs) > 1) for run, record in zip(runs, records, strict=True)),
        chart=interval_chart(rows, f"Results on {corpus} with chance levels") if rows else None,
        rows=tuple(_result_row(name, records) for name in names),
    )


def _tasks(names: Iterable[str]) -> Iterator[str]:
    """Yield the kind of evaluation that each metric belongs to."""
    names_of_tasks = {"zero_shot": "zero-shot classification", "linear_probe": "linear probe", "accuracy": "accuracy"}
    for name in names:
        head = name.partition("/")[0]
        yield names_of_tasks.get(head, "retrieval" if "_to_" in head else "results")


def _about(run: PageRun, record: EvaluationRecord | None, several: bool) -> str:
    prefix = f"{clean_text(run.name)}: " if several else ""
    if record is None:
        return f"{prefix}not evaluated on this corpus"
    skipped = f", {record.skipped:,} could not be read" if record.skipped else ""
    return f"{prefix}{record.rows:,} {run.record.sample_noun}s{skipped}, step {record.step:,}"


def _interval_row(name: str, runs: Sequence[PageRun], records: Sequence[EvaluationRecord | None]) -> IntervalRow:
    marks = []
    for run, record in zip(runs, records, strict=True):
        if record is not None and name in record.metrics:
            value = record.metrics[name]
            low, high = record.interval.get(name, (value, value))
            marks.append(IntervalMark(color=run.color, value=value, low=low, high=high))
    return IntervalRow(label=metric_label(name), marks=tuple(marks), chance=chance_level(name, records))


def chance_level(name: str, records: Sequence[EvaluationRecord | None]) -> float | None:
    """Return the chance level of a metric, from the first record that has it."""
    return next((record.chance[name] for record in records if record is not None and name in record.chance), None)


def _result_row(name: str, records: Sequence[EvaluationRecord | None]) -> ResultRow:
    chance = chance_level(name, records)
    return ResultRow(
        label=metric_label(name),
        cells=tuple(None if record is None else _cell(name, record) for record in records),
        chance="" if chance is None else format_metric(name, chance),
    )


def _cell(name: str, record: EvaluationRecord) -> ResultCell | None:
    if name not in record.metrics:
        return None
    interval = " to ".join(format_metric(name, end) for end in record.interval.get(name, ()))
    return ResultCell(value=format_metric(name, record.metrics[name]), interval=interval)


def format_metric(name: str, value: Number) -> str:
    """Return a metric's value as text: shares in percent.

    >>> format_metric("text_to_image/recall@10", 0.5), format_metric("text_to_image/median_rank", 14.0)
    ('50.0 %', '14')
    """
    return format_percent(value) if is_share(name) else format_number(value)


def is_share(name: str) -> bool:
    """Return whether the metric is a share of all queries or rows."""
    return any(word in name for word in ("recall@", "accuracy", "precision"))


def metric_label(name: str) -> str:
    """Return the name of a metric as the page shows it.

    >>> metric_label("text_to_image/recall@10")
    'text → image R@10'
    """
    head, _, tail = name.partition("/")
    if head == "accuracy":
        return clean_text(HEADS.get(tail, f"{tail} alone"), 40)
    metric = tail.replace("recall@", "R@").replace("_", " ").replace("/", " ")
    return clean_text(f"{TASKS.get(head, head.replace('_', ' '))} {metric}".strip(), 40)


def _sort_key(name: str) -> tuple[int, str, float, str]:
    """Sort by task, then by kind of metric, then by K; of a classifier's heads the fusion first, their mean last."""
    head, _, tail = name.partition("/")
    kind, _, k = tail.partition("@")
    if head == "accuracy" and tail in HEADS:
        kind = "" if tail == "multimodal" else "~"
    task = _TASK_ORDER.index(head) if head in _TASK_ORDER else len(_TASK_ORDER)
    return task, {"recall": "0"}.get(kind, kind), float(k) if k.isdecimal() else 0.0, name
