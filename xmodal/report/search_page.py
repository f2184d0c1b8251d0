"""A finished search in, one self-contained HTML page out: what matters, what was chosen, and how to run it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import stdev
from typing import Any

import numpy as np
from markupsafe import Markup

from xmodal.formatting import clean, count, moment, number, seconds
from xmodal.report import search_comparison
from xmodal.report.charts.search_charts import Drawn, axes_of, bars, curves, over_field, parallel, surface
from xmodal.report.experiment_page import Chart, Table
from xmodal.report.page import environment, file
from xmodal.report.search_comparison import Searched
from xmodal.search.choice import Chosen, Standing
from xmodal.search.importance import importance, samples
from xmodal.search.importance import surface as response
from xmodal.search.objective import Objective
from xmodal.search.space import Space
from xmodal.search.trial import BASELINE, FINALIST, FINISHED, Trial

MOST_SURFACES = 3
NONE = "\u2013"


@dataclass(frozen=True, kw_only=True)
class Search:
    """All of a page. `places` are the rungs, as shares of the budget; `command` runs what was chosen."""

    name: str
    trials: Sequence[Trial]
    space: Space
    by: tuple[Objective, ...]
    chosen: Chosen | None
    places: Sequence[float]
    command: str
    facts: Sequence[tuple[str, str]]
    regret: Sequence[tuple[str, str]] = ()
    beside: Sequence[Searched] = ()  # this search and another one
    made: str
    version: str


def render(search: Search) -> str:
    """The page; texts are escaped by the template."""
    drawn = _drawn(search)
    return environment().get_template("search.html.j2").render(
        search=search,
        title=clean(search.name, 60),
        leads=_leads(search),
        tiles=_tiles(search),
        tables=[one for one in (*_compared(search), _standings(search), _all(search)) if one.rows],
        wide=_parallel(search, drawn),
        charts=_charts(search, drawn),
        made=moment(search.made),
        style=Markup(file("style.css") + file("search.css")),
    )  # fmt: skip


def _charts(search: Search, drawn: Mapping[int, Drawn]) -> list[Chart]:
    over_fields = [*_fields(search, drawn), *_importance(search), *_surfaces(search, drawn)]
    return [*_progress(search), *_curves(search, drawn), *over_fields]


def _compared(search: Search) -> list[Table]:
    return [search_comparison.table(search.beside, search.by[0])] if search.beside else []


def _progress(search: Search) -> list[Chart]:
    found = search_comparison.chart(search.beside, search.by[0]) if search.beside else None
    return [found] if found else []


def _drawn(search: Search) -> Mapping[int, Drawn]:
    by = search.by[0]
    finished = [t for t in search.trials if t.status == FINISHED and by.better(t) is not None]
    order = sorted(finished, key=lambda t: -(by.better(t) or 0.0))
    rank = {trial.number: place / max(1, len(order) - 1) for place, trial in enumerate(order)}
    return {
        t.number: Drawn(
            label=_label(t, by),
            value=t.last(by.metric),
            rank=rank.get(t.number),
            chosen=search.chosen is not None and t.number == search.chosen.trial,
            baseline=t.kind == BASELINE,
        )
        for t in search.trials
    }


def _label(trial: Trial, by: Objective) -> str:
    value = trial.last(by.metric)
    told = ", ".join(f"{path} {_shown(x)}" for path, x in trial.values.items())
    return clean(f"{trial.name} ({trial.status}): {'' if value is None else number(value)}; {told}", 300)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else clean(value, 40)


def _leads(search: Search) -> list[str]:
    fields = ", ".join(search.space.ranges)
    first = f"{count(len(search.trials), 'trial')} over {fields}, by {' and '.join(one.metric for one in search.by)}."
    if search.chosen is None:
        return [first]
    chosen = next(trial for trial in search.trials if trial.number == search.chosen.trial)
    what = ", ".join(f"{path} = {_shown(value)}" for path, value in chosen.values.items())
    kind = "the baseline" if chosen.kind == BASELINE else chosen.name
    return [first, f"Chosen: {kind} ({what}), which {search.chosen.rule}."]


def _tiles(search: Search) -> list[tuple[str, str, str]]:
    by, trials = search.by[0], search.trials
    found = [("trials", str(len(trials)), _states(trials))]
    if search.chosen is not None:
        standing = {one.trial: one for one in search.chosen.standings}
        for title, which in (("chosen", search.chosen.trial), ("best", search.chosen.best)):
            one = standing[which]
            error = f"standard error {one.error:.2g}" if len(one.trials) > 1 else "one seed"
            found.append((title, number(one.mean), f"{by.metric}, {error}"))
        base = next((t.last(by.metric) for t in trials if t.kind == BASELINE), None)
        if base is not None:
            found.append(("baseline", number(base), by.metric))
    found.append(("work", seconds(sum(t.seconds for t in trials)), "of all trials together"))
    return found


def _states(trials: Sequence[Trial]) -> str:
    names = list(dict.fromkeys(trial.status for trial in trials))
    return ", ".join(f"{sum(t.status == name for t in trials)} {name}" for name in names)


def _standings(search: Search) -> Table:
    chosen = search.chosen
    standings = () if chosen is None else chosen.standings[:12]
    rows = [(f"trial-{one.trial:03d}", _mark(one.trial, chosen), _standing(one, search.space)) for one in standings]
    columns = [*(path.rpartition(".")[2] for path in search.space.ranges), "mean", "s.e.", "seeds", "departure"]
    note = "Of those within one standard error of the best, the one that departs least from plain training is chosen."
    return Table(title="Configurations that ran to their end", note=note, columns=columns, rows=rows)


def _standing(one: Standing, space: Space) -> list[str]:
    error = f"{one.error:.2g}" if len(one.trials) > 1 else NONE
    values = [_shown(value) for value in _values(one.values, space)]
    return [*values, number(one.mean), error, str(len(one.trials)), f"{one.departure:.2f}"]


def _mark(trial: int, chosen: Chosen | None) -> str:
    assert chosen is not None
    words = ["chosen"] * (trial == chosen.trial) + ["best"] * (trial == chosen.best) + ["baseline"] * (trial == 0)
    return ", ".join(words) or ("within one s.e." if trial in chosen.within else "")


def _values(values: Mapping[str, Any], space: Space) -> list[Any]:
    return [values.get(path, NONE) for path in space.ranges]


def _all(search: Search) -> Table:
    rows = [
        (
            trial.name,
            trial.kind + (f" of trial-{trial.parent:03d}" if trial.parent is not None else ""),
            [
                *map(_shown, _values(trial.values, search.space)),
                str(trial.seed),
                f"{trial.share:.0%}",
                *(NONE if (value := trial.last(one.metric)) is None else number(value) for one in search.by),
                trial.status,
                clean(trial.why, 120) or NONE,
            ],
        )
        for trial in search.trials
    ]
    columns = [*(path.rpartition(".")[2] for path in search.space.ranges), "seed", "done",
               *(one.metric for one in search.by), "state", "why"]  # fmt: skip
    return Table(title="All trials", columns=columns, rows=rows)


def _parallel(search: Search, drawn: Mapping[int, Drawn]) -> Chart | None:
    rows = [(drawn[t.number], _values(t.values, search.space)) for t in search.trials if t.kind != FINALIST]
    if not any(one.value is not None for one, _ in rows):
        return None
    metric = search.by[0].metric.rpartition("/")[2]
    shown = parallel(list(search.space.ranges.items()), rows, metric, "Parallel coordinates of all trials")
    caption = "A line is a trial. Green: chosen; strong: the best fifth; pale: stopped, rejected or failed."
    return Chart(title="Where the good ones are", caption=caption, figure=shown)


def _curves(search: Search, drawn: Mapping[int, Drawn]) -> list[Chart]:
    metric = search.by[0].metric
    rows = [
        (drawn[t.number], [(r.share, r.metrics[metric]) for r in t.reports if metric in r.metrics])
        for t in search.trials
        if t.kind != FINALIST
    ]
    if not any(line for _, line in rows):
        return []
    caption = f"{metric} over each trial's own budget." + (" Dashed: the rungs." if search.places else "")
    return [
        Chart(title="While they ran", caption=caption, figure=curves(rows, search.places, f"{metric} of all trials"))
    ]


def _fields(search: Search, drawn: Mapping[int, Drawn]) -> list[Chart]:
    by = search.by[0]
    spread = _spread(search)
    base = next((t.last(by.metric) for t in search.trials if t.kind == BASELINE), None)
    found = []
    for path, one in search.space.ranges.items():
        rows = [
            (drawn[t.number], t.values.get(path), spread.get(t.number, 0.0))
            for t in search.trials
            if t.status == FINISHED and t.kind != FINALIST
        ]
        for axis in axes_of(path, one):
            if not any(axis[1](value) is not None and d.value is not None for d, value, _ in rows):
                continue
            title = f"{by.metric.rpartition('/')[2]} over {axis[0]}"
            caption = "Dot: a trial that ran to its end; bar: one standard deviation over its seeds."
            shown = over_field(axis, rows, title, baseline=base)
            found.append(Chart(title=title, caption=caption, figure=shown))
    return found


def _spread(search: Search) -> dict[int, float]:
    metric = search.by[0].metric
    groups: dict[int, list[float]] = {}
    for trial in search.trials:
        value = trial.last(metric)
        if trial.status == FINISHED and value is not None:
            first = trial.parent if trial.kind == FINALIST and trial.parent is not None else trial.number
            groups.setdefault(first, []).append(value)
    return {number_: stdev(values) for number_, values in groups.items() if len(values) > 1}


def _importance(search: Search) -> list[Chart]:
    found = importance(search.trials, search.space, search.by[0])
    if not found:
        return []
    caption = "How much worse a random forest explains the metric with the field shuffled, as a share of its variance."
    shown = bars([(one.path, one.mean, one.sd) for one in found], "Importance of each field")
    return [Chart(title="Importance of each field", caption=caption, figure=shown)]


def _surfaces(search: Search, drawn: Mapping[int, Drawn]) -> list[Chart]:
    _, values = samples(search.trials, search.space, search.by[0])
    if len(values) < 6 or search.space.size < 2:
        return []
    axes = [axis for path, one in search.space.ranges.items() for axis in axes_of(path, one)]
    at = _places(search)
    found = []
    for a, b in list(combinations(range(len(axes)), 2))[:MOST_SURFACES]:
        kept = [
            (n, u, v)
            for n, p in at.items()
            if (u := p[a]) is not None and (v := p[b]) is not None and drawn[n].rank is not None
        ]
        if len(kept) < 6:
            continue
        scores = np.array([search.by[0].sign * (drawn[n].value or 0.0) for n, _, _ in kept])
        cells = response(np.array([[u, v] for _, u, v in kept], float), scores)
        title = f"{axes[b][0]} against {axes[a][0]}"
        shown = surface(
            cells, (axes[a][0], axes[a][2]), (axes[b][0], axes[b][2]),
            [(drawn[n], u, v) for n, u, v in kept], title,
        )  # fmt: skip
        found.append(Chart(title=title, caption="Smoothed over the trials (dots); stronger is better.", figure=shown))
    return found


def _places(search: Search) -> dict[int, list[float | None]]:
    """Of each trial that ended in the space, where each number of its values lies on its axis."""
    return {
        t.number: [
            axis[1](t.values.get(path)) for path, one in search.space.ranges.items() for axis in axes_of(path, one)
        ]
        for t in search.trials
        if t.kind != FINALIST and all(path in t.values and t.values[path] is not None for path in search.space.ranges)
    }
