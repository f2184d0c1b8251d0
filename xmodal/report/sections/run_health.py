"""Runs in; what became of their rows, what was quarantined and why, and where their time went, as the page shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.formatting import clean, number, percent, seconds
from xmodal.report.charts.images import photo_uri
from xmodal.report.page_data import Shown
from xmodal.report.quarantine_view import Example, Reason
from xmodal.report.sections.time_spent import spent


@dataclass(frozen=True, kw_only=True)
class Row:
    """A quarantined row; `picture` is a data URI or empty."""

    picture: str
    where: str
    detail: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """All rows of one reason; `share` is of the most frequent one, for the length of a bar."""

    reason: str
    field: str
    rows: int
    share: float
    examples: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """One run's rows: every planned one is delivered or quarantined."""

    run: str
    slot: int
    known: bool
    planned: str
    delivered: str
    quarantined: str
    share: str
    groups: tuple[Group, ...]


def accounts(runs: Sequence[Shown]) -> list[Account]:
    """One for each run; rows count as often as they were planned, reasons count different rows."""
    return [_account(run) for run in runs]


def _account(run: Shown) -> Account:
    last = run.recorded.last
    planned, bad = last.get("rows/planned") or 0, last.get("rows/quarantined") or 0
    most = max((reason.rows for reason in run.reasons), default=1)
    return Account(
        run=clean(run.name, 40),
        slot=run.slot,
        known="rows/planned" in last,
        planned=number(planned),
        delivered=number(last.get("rows/delivered") or 0),
        quarantined=number(bad),
        share=percent(bad / planned) if planned else "0 %",
        groups=tuple(_group(reason, most) for reason in run.reasons),
    )


def _group(reason: Reason, most: int) -> Group:
    return Group(
        reason=clean(reason.reason, 40).replace("_", " "),
        field=clean(reason.field, 40),
        rows=reason.rows,
        share=reason.rows / most,
        examples=tuple(_row(example) for example in reason.examples),
    )


def _row(example: Example) -> Row:
    record = example.record
    return Row(
        picture="" if example.picture is None else photo_uri(example.picture),
        where=f"{clean(record['shard'], 60)} · {clean(record['key'], 60)}",
        detail=clean(record["detail"], 120),
        why=clean(example.why, 120),
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a run's time; `place` (1..6) is its colour, the same in all runs."""

    label: str
    place: int
    share: float
    duration: str
    percentage: str


@dataclass(frozen=True, kw_only=True)
class Time:
    """Where one run's time went."""

    run: str
    slot: int
    total: str
    parts: tuple[Part, ...]


def times(runs: Sequence[Shown]) -> list[Time]:
    """One for each run that logged its pace; parts that took no time are left out."""
    made = []
    for run in runs:
        time = spent(run.recorded.metrics, str(run.recorded.run.record.get("created", "")))
        if time is None or time.total_s <= 0:
            continue
        parts = tuple(
            Part(
                label=label,
                place=place,
                share=value / time.total_s,
                duration=seconds(value),
                percentage=percent(value / time.total_s),
            )
            for place, (label, value) in enumerate(time.parts, 1)
            if value > 0
        )
        made.append(Time(run=clean(run.name, 40), slot=run.slot, total=seconds(time.total_s), parts=parts))
    return made
