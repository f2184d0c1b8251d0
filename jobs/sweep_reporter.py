"""Print the events of a sweep for a person: a table of its trials, a line for each event, and the choice at the end."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.progress_reporter import clock
from pipelines.runtime.events import Event, Notification
from xmodal.formatting import clean_text, format_number
from xmodal.search.trial import BASELINE, FINISHED, PAUSED, RUNNING, WAITING, Trial

MAX_ROWS = 30
SECONDS_PER_TABLE = 60.0  # of a log


class SweepReporter:
    """Show the table of trials on a terminal; in a log a line for each event, and the table once a minute."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 140)
        self._live = Live(console=self._console, auto_refresh=False) if sys.stderr.isatty() else None
        self._due = time.monotonic() + SECONDS_PER_TABLE
        self._began = time.monotonic()

    def __enter__(self) -> "SweepReporter":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, message: Event | dict[str, Any]) -> None:
        if not isinstance(message, dict):  # what indexing the corpora reports, before the first trial
            if isinstance(message, Notification):
                self._console.print(f"[sweep] {message.text}", markup=False, soft_wrap=True)
            return
        kind = message["kind"]
        if kind == "table":
            self._show(message["trials"], message["plan"])
        elif kind in ("started", "again", "ended"):
            self._console.print(f"[sweep] {event_line(message['trial'], kind)}", markup=False, soft_wrap=True)

    def _show(self, trials: Sequence[Trial], plan: Any) -> None:
        table = trial_table(trials, plan, time.monotonic() - self._began)
        if self._live:
            self._live.update(table, refresh=True)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + SECONDS_PER_TABLE
            self._console.print(table)


def event_line(trial: Trial, kind: str) -> str:
    """Return the line of one event of a trial."""
    values = ", ".join(f"{path.rpartition('.')[2]} {format_value(value)}" for path, value in trial.values.items())
    if kind == "started":
        again = f", attempt {trial.attempts}" if trial.attempts > 1 else ""
        return f"{trial.name} starts ({trial.kind}{again}; {values}; seed {trial.seed})"
    if kind == "again":
        return f"{trial.name} failed and is tried again: {clean_text(trial.why, 300)}"
    why = f": {clean_text(trial.why, 300)}" if trial.why else ""
    return f"{trial.name} {trial.status} after {clock(trial.seconds)}{why}"


def format_value(value: Any) -> str:
    """Return the value of a searched field as text."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return format_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else clean_text(value)


def trial_table(trials: Sequence[Trial], plan: Any, elapsed_s: float) -> Table:
    """Return a table of trials with their values and metrics; its title has the best so far and the remaining time."""
    ended = sum(trial.over for trial in trials)
    parts = [
        f"{ended} of {plan.trial_count} trials over",
        _best_text(trials, plan),
        _eta_text(trials, plan, elapsed_s),
    ]
    table = Table(title="  ·  ".join(filter(None, parts)), title_justify="left", box=None, pad_edge=False)
    for name in ("trial", *(path.rpartition(".")[2] for path in plan.space.ranges), "seed", "done"):
        table.add_column(name, no_wrap=True)
    for objective in plan.by:
        table.add_column(objective.metric.removeprefix("validation/"), justify="right")
    table.add_column("state", overflow="fold")
    running = [trial for trial in trials if not trial.over]
    ranked = _rank_trials([trial for trial in trials if trial.over], plan)
    for trial in (running + ranked)[:MAX_ROWS]:
        table.add_row(*_cells(trial, plan))
    if len(trials) > MAX_ROWS:
        table.add_row("…", *[""] * (len(plan.space.ranges) + 2 + len(plan.by)), f"{len(trials) - MAX_ROWS} more")
    return table


def _cells(trial: Trial, plan: Any) -> list[str]:
    metrics = [trial.last(objective.metric) for objective in plan.by]
    values = [format_value(trial.values[path]) if path in trial.values else "" for path in plan.space.ranges]
    state = trial.status + (f": {clean_text(trial.why, 90)}" if trial.why and trial.status != FINISHED else "")
    kind = " (baseline)" if trial.kind == BASELINE else ""
    scores = ["" if value is None else f"{value:.4g}" for value in metrics]
    return [trial.name + kind, *values, str(trial.seed), f"{trial.share:.0%}", *scores, state]


def _rank_trials(trials: Sequence[Trial], plan: Any) -> list[Trial]:
    """Return the trials sorted: those that have finished come first, the best of them at the top."""
    by = plan.by[0]
    return sorted(trials, key=lambda t: (t.status != FINISHED, -(by.better(t) if by.better(t) is not None else -1e300)))


def _best_text(trials: Sequence[Trial], plan: Any) -> str:
    ranked = [trial for trial in _rank_trials(trials, plan) if trial.status == FINISHED]
    return f"best {ranked[0].last(plan.by[0].metric):.4g} ({ranked[0].name})" if ranked else ""


def _eta_text(trials: Sequence[Trial], plan: Any, elapsed_s: float) -> str:
    """Return the remaining time, estimated from that of the trials that are over; empty before the first."""
    ended = [trial.seconds for trial in trials if trial.over and trial.seconds > 0]
    if not ended:
        return ""
    mean = sum(ended) / len(ended)
    unfinished = [trial for trial in trials if trial.status in (RUNNING, WAITING, PAUSED)]
    seconds = sum(max(0.0, mean - trial.seconds) for trial in unfinished)
    seconds += mean * max(0, plan.trial_count - len(trials))
    return f"ETA {clock(seconds / max(1, plan.concurrent))}"


def final_summary(result: Any, files: Any) -> str:
    """Return what was chosen and why, and where page, table and the chosen run are."""
    lines = [f"sweep       {result.uri}", f"page        {files.page}", f"table       {files.parquet}"]
    if result.chosen is not None:
        trial = next(trial for trial in result.trials if trial.number == result.chosen.trial)
        lines += [f"chosen      {trial.name}: {result.chosen.rule}", f"run         {files.run}"]
    if files.regret:
        lines.append(f"regret      {files.regret}")
    if files.command:
        lines.append(f"command     {files.command}")
    return "\n".join(lines)
