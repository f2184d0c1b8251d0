"""Render a finished hyper-parameter search as one self-contained HTML page.

The page shows which fields matter, what was chosen and how it compares, and the command that runs the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import stdev

import numpy as np
from markupsafe import Markup

from xmodal.formatting import clean_text, format_duration, format_number, format_timestamp, pluralize
from xmodal.report.charts.search_charts import (
    FieldAxis,
    TrialMark,
    bar_chart,
    field_axes,
    metric_over_field,
    parallel_coordinates,
    response_surface,
    trial_curves,
)
from xmodal.report.experiment_page import PageChart, PageTable
from xmodal.report.page import template_environment, template_text
from xmodal.report.search_comparison import ComparedSearch, best_so_far_chart, comparison_table
from xmodal.search.choice import ChosenConfig, RankedConfig
from xmodal.search.importance import importance, samples, surface
from xmodal.search.objective import SearchObjective
from xmodal.search.space import SearchSpace
from xmodal.search.trial import BASELINE, FINALIST, FINISHED, Trial

MAX_SURFACES = 3
MIN_SURFACE_TRIALS = 6  # a surface through fewer trials shows the smoothing, not the metric
MAX_STANDINGS = 12
NO_VALUE = "\u2013"


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The data of a search's page; the first of `objectives` is the metric that the page ranks trials by."""

    name: str
    trials: Sequence[Trial]
    space: SearchSpace
    objectives: tuple[SearchObjective, ...]
    chosen: ChosenConfig | None
    rungs: Sequence[float]  # shares of the budget at which trials were stopped
    command: str  # runs the chosen configuration
    facts: Sequence[tuple[str, str]]
    regret: Sequence[tuple[str, str]] = ()
    compared: Sequence[ComparedSearch] = ()  # this search and another one
    created: str
    version: str

    @property
    def objective(self) -> SearchObjective:
        """The objective that the page ranks trials by."""
        return self.objectives[0]


def render_search(search: SearchReport) -> str:
    """Return the HTML of the page; the template escapes all texts."""
    marks = _trial_marks(search)
    tables = (*_comparison_tables(search), _standings_table(search), _trials_table(search))
    return template_environment().get_template("search.html.j2").render(
        search=search,
        title=clean_text(search.name, 60),
        intro=_intro(search),
        tiles=_tiles(search),
        tables=[table for table in tables if table.rows],
        wide=_parallel_chart(search, marks),
        charts=_charts(search, marks),
        created=format_timestamp(search.created),
        style=Markup(template_text("style.css") + template_text("search.css")),
    )  # fmt: skip


def _charts(search: SearchReport, marks: Mapping[int, TrialMark]) -> list[PageChart]:
    comparison = best_so_far_chart(search.compared, search.objective) if search.compared else None
    return [
        *([comparison] if comparison else []),
        *_budget_charts(search, marks),
        *_field_charts(search, marks),
        *_importance_charts(search),
        *_surface_charts(search, marks),
    ]


def _comparison_tables(search: SearchReport) -> list[PageTable]:
    return [comparison_table(search.compared, search.objective)] if search.compared else []


def _trial_marks(search: SearchReport) -> Mapping[int, TrialMark]:
    """Return how the charts show each trial, by its number."""
    objective = search.objective
    finished = [t for t in search.trials if t.status == FINISHED and objective.better(t) is not None]
    ranking = sorted(finished, key=lambda t: -(objective.better(t) or 0.0))
    rank = {trial.number: k / max(1, len(ranking) - 1) for k, trial in enumerate(ranking)}
    return {
        t.number: TrialMark(
            label=_tooltip(t, objective),
            value=t.last(objective.metric),
            rank=rank.get(t.number),
            chosen=search.chosen is not None and t.number == search.chosen.trial,
        )
        for t in search.trials
    }


def _tooltip(trial: Trial, objective: SearchObjective) -> str:
    value = trial.last(objective.metric)
    fields = ", ".join(f"{path} {_format_value(value)}" for path, value in trial.values.items())
    metric = "" if value is None else format_number(value)
    return clean_text(f"{trial.name} ({trial.status}): {metric}; {fields}", 300)


def _format_value(value: object) -> str:
    """Return the value of a field as text."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_format_value, value)) + "]"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return format_number(value) if is_number else clean_text(value, 40)


def _intro(search: SearchReport) -> list[str]:
    fields = ", ".join(search.space.ranges)
    metrics = " and ".join(objective.metric for objective in search.objectives)
    summary = f"{pluralize(len(search.trials), 'trial')} over {fields}, by {metrics}."
    if search.chosen is None:
        return [summary]
    chosen = next(trial for trial in search.trials if trial.number == search.chosen.trial)
    values = ", ".join(f"{path} = {_format_value(value)}" for path, value in chosen.values.items())
    name = "the baseline" if chosen.kind == BASELINE else chosen.name
    return [summary, f"Chosen: {name} ({values}), which {search.chosen.rule}."]


def _tiles(search: SearchReport) -> list[tuple[str, str, str]]:
    """Return the headline numbers as (name, value, note)."""
    metric, trials = search.objective.metric, search.trials
    tiles = [("trials", str(len(trials)), _status_counts(trials))]
    if search.chosen is not None:
        tiles += _choice_tiles(search.chosen, metric)
        baseline = _baseline_value(search)
        if baseline is not None:
            tiles.append(("baseline", format_number(baseline), metric))
    work = format_duration(sum(t.seconds for t in trials))
    return [*tiles, ("work", work, "of all trials together")]


def _choice_tiles(chosen: ChosenConfig, metric: str) -> list[tuple[str, str, str]]:
    standings = {standing.trial: standing for standing in chosen.standings}
    tiles = []
    for title, number in (("chosen", chosen.trial), ("best", chosen.best)):
        standing = standings[number]
        error = f"standard error {standing.error:.2g}" if len(standing.trials) > 1 else "one seed"
        tiles.append((title, format_number(standing.mean), f"{metric}, {error}"))
    return tiles


def _baseline_value(search: SearchReport) -> int | float | None:
    metric = search.objective.metric
    return next((t.last(metric) for t in search.trials if t.kind == BASELINE), None)


def _status_counts(trials: Sequence[Trial]) -> str:
    names = list(dict.fromkeys(trial.status for trial in trials))
    return ", ".join(f"{sum(t.status == name for t in trials)} {name}" for name in names)


def _field_names(space: SearchSpace) -> list[str]:
    return [path.rpartition(".")[2] for path in space.ranges]


def _standings_table(search: SearchReport) -> PageTable:
    chosen, space = search.chosen, search.space
    rows = []
    if chosen is not None:
        rows = [
            (f"trial-{standing.trial:03d}", _standing_role(standing.trial, chosen), _standing_cells(standing, space))
            for standing in chosen.standings[:MAX_STANDINGS]
        ]
    return PageTable(
        title="Configurations that ran to their end",
        note="Among those within one standard error of the best, the one that departs least from plain training is "
        "chosen.",
        columns=[*_field_names(space), "mean", "s.e.", "seeds", "departure"],
        rows=rows,
    )


def _standing_cells(standing: RankedConfig, space: SearchSpace) -> list[str]:
    error = f"{standing.error:.2g}" if len(standing.trials) > 1 else NO_VALUE
    values = [_format_value(value) for value in _values_in_order(standing.values, space)]
    return [*values, format_number(standing.mean), error, str(len(standing.trials)), f"{standing.departure:.2f}"]


def _standing_role(trial: int, chosen: ChosenConfig) -> str:
    words = ["chosen"] * (trial == chosen.trial) + ["best"] * (trial == chosen.best) + ["baseline"] * (trial == 0)
    return ", ".join(words) or ("within one s.e." if trial in chosen.within else "")


def _values_in_order(values: Mapping[str, object], space: SearchSpace) -> list[object]:
    """Return a configuration's values in the order of the space's fields."""
    return [values.get(path, NO_VALUE) for path in space.ranges]


def _trials_table(search: SearchReport) -> PageTable:
    metrics = [objective.metric for objective in search.objectives]
    rows = [
        (
            trial.name,
            trial.kind + (f" of trial-{trial.parent:03d}" if trial.parent is not None else ""),
            [
                *map(_format_value, _values_in_order(trial.values, search.space)),
                str(trial.seed),
                f"{trial.share:.0%}",
                *(NO_VALUE if (value := trial.last(metric)) is None else format_number(value) for metric in metrics),
                trial.status,
                clean_text(trial.why, 120) or NO_VALUE,
            ],
        )
        for trial in search.trials
    ]
    columns = [*_field_names(search.space), "seed", "done", *metrics, "state", "why"]
    return PageTable(title="All trials", columns=columns, rows=rows)


def _parallel_chart(search: SearchReport, marks: Mapping[int, TrialMark]) -> PageChart | None:
    rows = [(marks[t.number], _values_in_order(t.values, search.space)) for t in search.trials if t.kind != FINALIST]
    if not any(mark.value is not None for mark, _ in rows):
        return None
    metric = search.objective.metric.rpartition("/")[2]
    ranges = list(search.space.ranges.items())
    return PageChart(
        title="All trials by their values",
        caption="A line is a trial. Green: chosen; strong: the best fifth; pale: stopped, rejected or failed.",
        figure=parallel_coordinates(ranges, rows, metric, "Parallel coordinates of all trials"),
    )


def _budget_charts(search: SearchReport, marks: Mapping[int, TrialMark]) -> list[PageChart]:
    metric = search.objective.metric
    rows = [
        (marks[t.number], [(r.share, r.metrics[metric]) for r in t.reports if metric in r.metrics])
        for t in search.trials
        if t.kind != FINALIST
    ]
    if not any(line for _, line in rows):
        return []
    caption = f"{metric} over each trial's own budget." + (" Dashed: the rungs." if search.rungs else "")
    figure = trial_curves(rows, search.rungs, f"{metric} of all trials")
    return [PageChart(title="The metric during the trials", caption=caption, figure=figure)]


def _field_charts(search: SearchReport, marks: Mapping[int, TrialMark]) -> list[PageChart]:
    """Draw the metric over each number of each field."""
    metric = search.objective.metric.rpartition("/")[2]
    sd, baseline = _sd_over_seeds(search), _baseline_value(search)
    finished = [t for t in search.trials if t.status == FINISHED and t.kind != FINALIST]
    charts = []
    for path, axis in _axes(search.space):
        rows = [(marks[t.number], t.values.get(path), sd.get(t.number, 0.0)) for t in finished]
        if any(axis.position(value) is not None and mark.value is not None for mark, value, _ in rows):
            title = f"{metric} over {axis.name}"
            caption = "Dot: a trial that ran to its end; bar: one standard deviation over its seeds."
            figure = metric_over_field(axis, rows, title, baseline=baseline)
            charts.append(PageChart(title=title, caption=caption, figure=figure))
    return charts


def _axes(space: SearchSpace) -> list[tuple[str, FieldAxis]]:
    """Return the axes of all fields, each with its field's dotted name."""
    return [(path, axis) for path, field_range in space.ranges.items() for axis in field_axes(path, field_range)]


def _sd_over_seeds(search: SearchReport) -> dict[int, float]:
    """Return the standard deviation of the metric over seeds, for each trial that finalists repeat."""
    metric = search.objective.metric
    groups: dict[int, list[float]] = {}
    for trial in search.trials:
        value = trial.last(metric)
        if trial.status == FINISHED and value is not None:
            first = trial.parent if trial.kind == FINALIST and trial.parent is not None else trial.number
            groups.setdefault(first, []).append(value)
    return {number: stdev(values) for number, values in groups.items() if len(values) > 1}


def _importance_charts(search: SearchReport) -> list[PageChart]:
    fields = importance(search.trials, search.space, search.objective)
    if not fields:
        return []
    title = "Importance of each field"
    caption = "How much worse a random forest explains the metric with the field shuffled, as a share of its variance."
    figure = bar_chart([(field.path, field.mean, field.sd) for field in fields], title)
    return [PageChart(title=title, caption=caption, figure=figure)]


def _surface_charts(search: SearchReport, marks: Mapping[int, TrialMark]) -> list[PageChart]:
    """Draw smoothed responses over pairs of field numbers, at most MAX_SURFACES."""
    _, values = samples(search.trials, search.space, search.objective)
    if len(values) < MIN_SURFACE_TRIALS or search.space.size < 2:
        return []
    axes = [axis for _, axis in _axes(search.space)]
    positions = _trial_positions(search)
    pairs = list(combinations(range(len(axes)), 2))[:MAX_SURFACES]
    charts = [_surface_chart(search, marks, positions, axes, a, b) for a, b in pairs]
    return [chart for chart in charts if chart is not None]


def _surface_chart(
    search: SearchReport,
    marks: Mapping[int, TrialMark],
    positions: Mapping[int, Sequence[float | None]],
    axes: Sequence[FieldAxis],
    a: int,
    b: int,
) -> PageChart | None:
    """Draw the response over axes `a` (across) and `b` (upwards); None where too few trials have both numbers."""
    points = [
        (marks[number], x, y)
        for number, units in positions.items()
        if (x := units[a]) is not None and (y := units[b]) is not None and marks[number].rank is not None
    ]
    if len(points) < MIN_SURFACE_TRIALS:
        return None
    scores = np.array([search.objective.sign * (mark.value or 0.0) for mark, _, _ in points])
    cells = surface(np.array([[x, y] for _, x, y in points], float), scores)
    title = f"{axes[b].name} against {axes[a].name}"
    figure = response_surface(cells, axes[a], axes[b], points, title)
    return PageChart(title=title, caption="Smoothed over the trials (dots); stronger is better.", figure=figure)


def _trial_positions(search: SearchReport) -> dict[int, list[float | None]]:
    """Return the positions in [0, 1] of a trial's values on all axes, for each trial that has every value."""
    axes = _axes(search.space)
    return {
        t.number: [axis.position(t.values.get(path)) for path, axis in axes]
        for t in search.trials
        if t.kind != FINALIST and all(t.values.get(path) is not None for path in search.space.ranges)
    }
