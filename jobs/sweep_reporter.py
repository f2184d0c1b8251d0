"""What a sweep says while it goes, and at its end: its news in, one table and lines that a person understands out."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.progress_reporter import clock
from xmodal.formatting import clean, number
from xmodal.search.trial import BASELINE, FINISHED, PAUSED, RUNNING, WAITING, Trial

MOST_ROWS = 30
SECONDS_PER_TABLE = 60.0  # in a log


class Watch:
    """Shows the table on a terminal; in a log a line for what happens, and the table once a minute."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 140)
        self._live = Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None
        self._due = time.monotonic() + SECONDS_PER_TABLE
        self._began = time.monotonic()

    def __enter__(self) -> "Watch":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "table":
            self._show(message["trials"], message["plan"])
        elif kind in ("started", "again", "ended"):
            self._console.print(f"[sweep] {line(message['trial'], kind)}", markup=False, soft_wrap=True)
        elif kind == "note":
            self._console.print(f"[sweep] {message['text']}", markup=False, soft_wrap=True)

    def _show(self, trials: Sequence[Trial], plan: Any) -> None:
        table = table_of(trials, plan, time.monotonic() - self._began)
        if self._live:
            self._live.update(table, refresh=True)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + SECONDS_PER_TABLE
            self._console.print(table)


def line(trial: Trial, kind: str) -> str:
    """One event."""
    values = ", ".join(f"{path.rpartition('.')[2]} {shown(value)}" for path, value in trial.values.items())
    if kind == "started":
        again = f", attempt {trial.attempts}" if trial.attempts > 1 else ""
        return f"{trial.name} starts ({trial.kind}{again}; {values}; seed {trial.seed})"
    if kind == "again":
        return f"{trial.name} failed and is tried again: {clean(trial.why, 300)}"
    why = f": {clean(trial.why, 300)}" if trial.why else ""
    return f"{trial.name} {trial.status} after {clock(trial.seconds)}{why}"


def shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else clean(value)


def table_of(trials: Sequence[Trial], plan: Any, elapsed_s: float) -> Table:
    """Trials with what they were given and what came of it; best so far and the remaining time in the title."""
    over = sum(trial.over for trial in trials)
    parts = [f"{over} of {plan.strategy.planned} trials over", _best(trials, plan), _left(trials, plan, elapsed_s)]
    table = Table(title="  ·  ".join(filter(None, parts)), title_justify="left", box=None, pad_edge=False)
    for name in ("trial", *(path.rpartition(".")[2] for path in plan.space.ranges), "seed", "done"):
        table.add_column(name, no_wrap=True)
    for one in plan.by:
        table.add_column(one.metric.removeprefix("validation/"), justify="right")
    table.add_column("state", overflow="fold")
    at_work = [trial for trial in trials if not trial.over]
    rest = _ranked([trial for trial in trials if trial.over], plan)
    for trial in (at_work + rest)[:MOST_ROWS]:
        table.add_row(*_cells(trial, plan))
    if len(trials) > MOST_ROWS:
        table.add_row("…", *[""] * (len(plan.space.ranges) + 2 + len(plan.by)), f"{len(trials) - MOST_ROWS} more")
    return table


def _cells(trial: Trial, plan: Any) -> list[str]:
    measured = [trial.last(one.metric) for one in plan.by]
    values = [shown(trial.values[path]) if path in trial.values else "" for path in plan.space.ranges]
    state = trial.status + (f": {clean(trial.why, 90)}" if trial.why and trial.status != FINISHED else "")
    kind = " (baseline)" if trial.kind == BASELINE else ""
    told = ["" if value is None else f"{value:.4g}" for value in measured]
    return [trial.name + kind, *values, str(trial.seed), f"{trial.share:.0%}", *told, state]


def _ranked(trials: Sequence[Trial], plan: Any) -> list[Trial]:
    """Those that finished first, best first."""
    by = plan.by[0]
    return sorted(trials, key=lambda t: (t.status != FINISHED, -(by.better(t) if by.better(t) is not None else -1e300)))


def _best(trials: Sequence[Trial], plan: Any) -> str:
    ranked = [trial for trial in _ranked(trials, plan) if trial.status == FINISHED]
    return f"best {ranked[0].last(plan.by[0].metric):.4g} ({ranked[0].name})" if ranked else ""


def _left(trials: Sequence[Trial], plan: Any, elapsed_s: float) -> str:
    """From the time that finished trials took, and how far the others are."""
    ended = [trial.seconds for trial in trials if trial.over and trial.seconds > 0]
    if not ended:
        return ""
    mean = sum(ended) / len(ended)
    open_ = [trial for trial in trials if trial.status in (RUNNING, WAITING, PAUSED)]
    left = sum(max(0.0, mean - trial.seconds) for trial in open_)
    left += mean * max(0, plan.strategy.planned - len(trials))
    return f"ETA {clock(left / max(1, plan.concurrent))}"


def closing(result: Any, told: Any) -> str:
    """The choice, why, and what to do with it."""
    lines = [f"sweep       {result.uri}", f"page        {told.page}", f"table       {told.parquet}"]
    if result.chosen is not None:
        trial = next(one for one in result.trials if one.number == result.chosen.trial)
        lines += [f"chosen      {trial.name}: {result.chosen.rule}", f"run         {told.run}"]
    if told.regret:
        lines.append(f"regret      {told.regret}")
    if told.command:
        lines.append(f"command     {told.command}")
    return "\n".join(lines)
