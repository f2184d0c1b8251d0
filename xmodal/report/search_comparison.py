"""Compare two searches over the same space: the best value that each had after how much work, and what each chose.

Work is counted in full runs: the sum of the shares of the budget that the trials were given.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from xmodal.formatting import format_number
from xmodal.report.charts.search_charts import BOTTOM, LEFT, RIGHT, TOP, axis_frame
from xmodal.report.charts.svg import FIGURE_WIDTH, Scale, fit_scale, path_data, svg_element, svg_figure, tick_label
from xmodal.report.experiment_page import PageChart, PageTable
from xmodal.search.objective import SearchObjective
from xmodal.search.trial import FINALIST, FINISHED, Trial

HEIGHT = 240
NO_VALUE = "\u2013"


@dataclass(frozen=True, kw_only=True)
class ComparedSearch:
    """One of two searches.

    `oracle_metrics` are those of the chosen trial on the target's labels, which no decision has used; `regret` is the
    distance of each from the best trial.
    """

    name: str
    algorithm: str
    trials: Sequence[Trial]
    chosen: int | None  # number of the chosen trial
    oracle_metrics: Mapping[str, float] = field(default_factory=dict)
    regret: Mapping[str, float] = field(default_factory=dict)

    @property
    def trials_by_end(self) -> list[Trial]:
        """The trials in the order in which they ended, without those that repeat finalists over seeds."""
        return sorted((t for t in self.trials if t.kind != FINALIST), key=lambda t: t.started + t.seconds)

    @property
    def full_runs(self) -> float:
        """The work of all these trials, in full runs."""
        return sum(trial.share for trial in self.trials_by_end)


def best_so_far(search: ComparedSearch, objective: SearchObjective) -> list[tuple[float, float]]:
    """Return (full runs of work, best value of a finished trial so far), a point for each trial that ended."""
    work, best, points = 0.0, None, []
    for trial in search.trials_by_end:
        work += trial.share
        value = objective.better(trial)
        if trial.status == FINISHED and value is not None and (best is None or value > best):
            best = value
        if best is not None:
            points.append((work, objective.sign * best))
    return points


def best_so_far_chart(searches: Sequence[ComparedSearch], objective: SearchObjective) -> PageChart | None:
    """Draw a line for each of the two searches, the page's own in green; None where one has no finished trial."""
    lines = [best_so_far(search, objective) for search in searches]
    if not all(lines):
        return None
    points = [point for line in lines for point in line]
    x = Scale(low=0, high=max(work for work, _ in points), begin=LEFT, end=FIGURE_WIDTH - RIGHT)
    y = fit_scale([value for _, value in points], HEIGHT - BOTTOM, TOP)
    parts = axis_frame(x, y, [(tick, tick_label(tick)) for tick in x.ticks()], "work in full runs", HEIGHT)
    for search, line, css_class in zip(searches, lines, ("chosen", "middle"), strict=False):
        tooltip = Markup("<title>{}</title>").format(f"{search.name} ({search.algorithm})")
        corners = [(x(work), y(value)) for work, value in _step_corners(line)]
        parts.append(svg_element("path", tooltip, d=path_data(corners), class_=f"trial {css_class}"))
    first, second = (f"{search.name} ({search.algorithm})" for search in searches)
    title = f"Best {_short_name(objective.metric)} so far"
    caption = f"Best value among the trials that ran to their end. Green: {first}; blue: {second}."
    return PageChart(title=title, caption=caption, figure=svg_figure(HEIGHT, title, *parts))


def _step_corners(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a step function through the points."""
    corners = [line[0]]
    for (_, previous), (work, value) in itertools.pairwise(line):
        corners += [(work, previous), (work, value)]
    return corners


def comparison_table(searches: Sequence[ComparedSearch], objective: SearchObjective) -> PageTable:
    """Return what each search found; with the oracle metrics that both have."""
    names = [name for name in searches[0].oracle_metrics if all(name in search.oracle_metrics for search in searches)]
    oracle_columns = [column for name in names for column in (f"chosen: oracle {_short_name(name)}", "its regret")]
    metric = _short_name(objective.metric)
    return PageTable(
        title="Compared with another search",
        note="Repeats of finalists over seeds are not counted as work.",
        columns=["trials", "work in full runs", f"best {metric}", f"chosen: {metric}", *oracle_columns],
        rows=[(search.name, search.algorithm, _cells(search, names, objective)) for search in searches],
    )


def _cells(search: ComparedSearch, oracle_names: Sequence[str], objective: SearchObjective) -> list[str]:
    trials = search.trials_by_end
    finished = [t for t in trials if t.status == FINISHED and objective.better(t) is not None]
    best = max(finished, key=lambda t: objective.better(t) or 0.0, default=None)
    chosen = next((t for t in search.trials if t.number == search.chosen), None)
    values = [_last_value(best, objective), _last_value(chosen, objective)]
    oracle = [
        format_number(value) for name in oracle_names for value in (search.oracle_metrics[name], search.regret[name])
    ]
    return [str(len(trials)), f"{search.full_runs:.1f}", *values, *oracle]


def _short_name(metric: str) -> str:
    return metric.rpartition("/")[2]


def _last_value(trial: Trial | None, objective: SearchObjective) -> str:
    value = None if trial is None else trial.last(objective.metric)
    return NO_VALUE if value is None else format_number(value)
