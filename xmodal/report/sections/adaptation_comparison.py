"""What an adaptation changed: recall of every arm of a comparison as bars, and the same queries before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xmodal.formatting import clean_text, format_percent
from xmodal.report.charts.figures import BarRow, bar_chart
from xmodal.report.page_data import PageRun, ReportData
from xmodal.report.sections.evaluation_results import TASKS
from xmodal.report.sections.gallery import search_by_rank_change
from xmodal.report.sections.gallery_view import PAIR_WORDS, GalleryQuery, PairWords, gallery_queries
from xmodal.run.comparison_record import ARM_LABELS, SOURCE, TARGET, ComparisonRecord

METRIC = "recall@10"
QUERIES = 5


@dataclass(frozen=True, kw_only=True)
class RecallChart:
    """Recall@10 of every arm on the target, for one direction of retrieval."""

    title: str
    figure: Markup


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """An arm with its recall@10 in every column of the table, as text."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AdaptationComparison:
    """The content of the section for one comparison.

    `queries` is empty unless the page has the models of before and after, and its pairs are those of the target.
    """

    adaptation: str
    source: str
    target: str
    rows: str
    charts: tuple[RecallChart, ...]
    columns: tuple[str, ...]
    arms: tuple[ArmRow, ...]
    queries: tuple[GalleryQuery, ...]
    words: PairWords
    centred: bool  # whether there is an arm with centred embeddings


def adaptation_comparisons(data: ReportData) -> list[AdaptationComparison]:
    """Return the comparisons that the runs of the page recorded."""
    return [_comparison(data, run, record) for run in data.runs for record in run.record.comparisons]


def _comparison(data: ReportData, run: PageRun, record: ComparisonRecord) -> AdaptationComparison:
    before = _run_before(data, record)
    colors = {"adapted": run.color} | ({"before": before.color} if before is not None else {})
    tasks = [task for task in TASKS if any(record.mean_sd(arm, f"{TARGET}/{task}/{METRIC}") for arm in record.arms)]
    return AdaptationComparison(
        adaptation=clean_text(record.adaptation),
        source=clean_text(record.source),
        target=clean_text(record.target),
        rows=f"{record.rows[TARGET]:,}" if TARGET in record.rows else "",
        charts=tuple(_recall_chart(record, task, colors) for task in tasks),
        columns=tuple(f"{TASKS[task]}, {domain}" for domain in ("target", "source") for task in tasks),
        arms=tuple(_arm_row(record, arm, tasks) for arm in ARM_LABELS if arm in record.arms),
        queries=_queries(data, before, run, record),
        words=PAIR_WORDS[data.pairs.modalities if data.pairs is not None else ("image", "text")],
        centred="centred" in record.arms,
    )


def _run_before(data: ReportData, record: ComparisonRecord) -> PageRun | None:
    """Return the run of the page that the adaptation started from; None where it is not on the page."""
    checkpoints = tuple(run.checkpoint for run in record.arms.get("before", ()))
    return next((run for run in data.runs if any(_lies_in(uri, run) for uri in checkpoints)), None)


def _lies_in(checkpoint: str, run: PageRun) -> bool:
    return checkpoint.startswith(f"{run.record.run.uri.rstrip('/')}/")


def _recall_chart(record: ComparisonRecord, task: str, colors: Mapping[str, int]) -> RecallChart:
    name = f"{TARGET}/{task}/{METRIC}"
    rows = [
        BarRow(label=_arm_label(record, arm), value=mean_sd[0], sd=mean_sd[1], color=colors.get(arm))
        for arm in ARM_LABELS
        if (mean_sd := record.mean_sd(arm, name)) is not None
    ]
    title = f"{TASKS[task]}, R@10"
    return RecallChart(title=title, figure=bar_chart(rows, f"{title} on the target", chance=record.chance.get(name)))


def _arm_label(record: ComparisonRecord, arm: str) -> str:
    count = len(record.arms[arm])
    return ARM_LABELS[arm] + (f" ({count} runs)" if count > 1 else "")


def _arm_row(record: ComparisonRecord, arm: str, tasks: Sequence[str]) -> ArmRow:
    names = [f"{domain}/{task}/{METRIC}" for domain in (TARGET, SOURCE) for task in tasks]
    cells = tuple(_format_cell(record.mean_sd(arm, name)) for name in names)
    return ArmRow(label=_arm_label(record, arm), cells=cells)


def _format_cell(mean_sd: tuple[float, float | None] | None) -> str:
    if mean_sd is None:
        return "\u2013"
    mean, sd = mean_sd
    return format_percent(mean) if sd is None else f"{format_percent(mean)} ± {100 * sd:.1f}"


def _queries(
    data: ReportData, before: PageRun | None, after: PageRun, record: ComparisonRecord
) -> tuple[GalleryQuery, ...]:
    """Return text queries with what both models find."""
    pairs = data.pairs
    if pairs is None or before is None or before.embeddings is None or after.embeddings is None:
        return ()
    if pairs.uri.rstrip("/") != record.target.rstrip("/"):
        return ()
    searches = search_by_rank_change(pairs, before.embeddings, after.embeddings, QUERIES)
    return gallery_queries(searches, (before, after), pairs)
