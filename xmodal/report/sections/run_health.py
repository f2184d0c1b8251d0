"""Data quality and time of the runs: rows delivered and quarantined, reasons with examples, and where time went."""

from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.formatting import clean_text, format_duration, format_number, format_percent
from xmodal.report.charts.images import jpeg_data_uri
from xmodal.report.page_data import PageRun
from xmodal.report.quarantine_view import QuarantineExample, QuarantineReason
from xmodal.report.sections.time_spent import time_spent


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """A quarantined row as the page shows it; `image` is a data URI, or empty where there is no thumbnail."""

    image: str
    location: str  # shard and key
    detail: str
    why_no_thumbnail: str


@dataclass(frozen=True, kw_only=True)
class ReasonRow:
    """All rows that were quarantined for one reason; `bar` is their number relative to the most frequent reason."""

    reason: str
    field: str
    rows: int
    bar: float
    examples: tuple[ExampleRow, ...]


@dataclass(frozen=True, kw_only=True)
class RunRowCounts:
    """The rows of one run: every planned row was delivered or quarantined. `logged`: whether the run counted them."""

    run: str
    color: int
    logged: bool
    planned: str
    delivered: str
    quarantined: str
    share: str
    reasons: tuple[ReasonRow, ...]


def row_counts(runs: Sequence[PageRun]) -> list[RunRowCounts]:
    """Return the row counts of each run.

    Counts of rows include repeats over epochs; those of a reason are of different rows.
    """
    return [_row_counts(run) for run in runs]


def _row_counts(run: PageRun) -> RunRowCounts:
    metrics = run.record.last_metrics
    planned, quarantined = metrics.get("rows/planned") or 0, metrics.get("rows/quarantined") or 0
    most = max((reason.rows for reason in run.quarantine_reasons), default=1)
    return RunRowCounts(
        run=clean_text(run.name, 40),
        color=run.color,
        logged="rows/planned" in metrics,
        planned=format_number(planned),
        delivered=format_number(metrics.get("rows/delivered") or 0),
        quarantined=format_number(quarantined),
        share=format_percent(quarantined / planned) if planned else "0 %",
        reasons=tuple(_reason_row(reason, most) for reason in run.quarantine_reasons),
    )


def _reason_row(reason: QuarantineReason, most: int) -> ReasonRow:
    return ReasonRow(
        reason=clean_text(reason.reason, 40).replace("_", " "),
        field=clean_text(reason.field, 40),
        rows=reason.rows,
        bar=reason.rows / most,
        examples=tuple(_example_row(example) for example in reason.examples),
    )


def _example_row(example: QuarantineExample) -> ExampleRow:
    record = example.record
    return ExampleRow(
        image="" if example.thumbnail is None else jpeg_data_uri(example.thumbnail),
        location=f"{clean_text(record['shard'], 60)} · {clean_text(record['key'], 60)}",
        detail=clean_text(record["detail"], 120),
        why_no_thumbnail=clean_text(example.why_no_thumbnail, 120),
    )


@dataclass(frozen=True, kw_only=True)
class TimePart:
    """One activity of a run with its time; `color` (1..6) is the same for this activity in all runs."""

    label: str
    color: int
    share: float
    duration: str
    percentage: str


@dataclass(frozen=True, kw_only=True)
class TimeBreakdown:
    """The wall-clock time of one run by activity."""

    run: str
    color: int
    total: str
    parts: tuple[TimePart, ...]


def time_breakdowns(runs: Sequence[PageRun]) -> list[TimeBreakdown]:
    """Return the time of each run that logged its throughput; activities that took no time are left out."""
    breakdowns = []
    for run in runs:
        spent = time_spent(run.record.metrics, str(run.record.run.record.get("created", "")))
        if spent is None or spent.total_s <= 0:
            continue
        parts = tuple(
            TimePart(
                label=label,
                color=color,
                share=seconds / spent.total_s,
                duration=format_duration(seconds),
                percentage=format_percent(seconds / spent.total_s),
            )
            for color, (label, seconds) in enumerate(spent.parts, 1)
            if seconds > 0
        )
        total = format_duration(spent.total_s)
        breakdowns.append(TimeBreakdown(run=clean_text(run.name, 40), color=run.color, total=total, parts=parts))
    return breakdowns
