"""Two searches over the same space in; what each had found after how much work, as a chart and a table, out.

Work is counted in full runs: the shares of the budget that trials were given, added up.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from xmodal.formatting import number
from xmodal.report.charts.search_charts import BOTTOM, LEFT, RIGHT, TOP, framed
from xmodal.report.charts.svg import WIDTH, Scale, element, figure, path, spanning
from xmodal.report.experiment_page import Chart, Table
from xmodal.search.objective import Objective
from xmodal.search.trial import FINALIST, FINISHED, Trial

HEIGHT = 240
NONE = "\u2013"


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One search. `sealed` holds figures of the target's labels of its chosen trial, and `regret` what each cost."""

    name: str
    algorithm: str
    trials: Sequence[Trial]
    chosen: int | None
    sealed: Mapping[str, float] = field(default_factory=dict)
    regret: Mapping[str, float] = field(default_factory=dict)

    @property
    def drawn(self) -> list[Trial]:
        """Its trials but for the repeats of finalists, in the order in which they ended."""
        return sorted((t for t in self.trials if t.kind != FINALIST), key=lambda t: t.started + t.seconds)

    @property
    def work(self) -> float:
        return sum(trial.share for trial in self.drawn)


def best_so_far(searched: Searched, by: Objective) -> list[tuple[float, float]]:
    """After so many full runs' worth of work, the best value of a trial that had run to its end."""
    spent, best, found = 0.0, None, []
    for trial in searched.drawn:
        spent += trial.share
        value = by.better(trial)
        if trial.status == FINISHED and value is not None and (best is None or value > best):
            best = value
        if best is not None:
            found.append((spent, by.sign * best))
    return found


def chart(both: Sequence[Searched], by: Objective) -> Chart | None:
    """A line for each search, that of the page's own in green."""
    lines = [best_so_far(one, by) for one in both]
    points = [point for line in lines for point in line]
    if not all(lines):
        return None
    x = Scale(low=0, high=max(spent for spent, _ in points), begin=LEFT, end=WIDTH - RIGHT)
    y = spanning([value for _, value in points], HEIGHT - BOTTOM, TOP)
    parts = framed(x, y, [(tick, number(tick)) for tick in x.ticks()], "full runs' worth of work", HEIGHT)
    for one, line, look in zip(both, lines, ("chosen", "middle"), strict=False):
        tip = Markup("<title>{}</title>").format(f"{one.name} ({one.algorithm})")
        steps = [(x(spent), y(value)) for spent, value in _stepped(line)]
        parts.append(element("path", tip, d=path(steps), class_=f"trial {look}"))
    names = f"Green: {both[0].name} ({both[0].algorithm}); blue: {both[1].name} ({both[1].algorithm})."
    title = f"Best {_last(by.metric)} so far"
    return Chart(title=title, caption=f"Of trials that ran to their end. {names}", figure=figure(HEIGHT, title, *parts))


def _stepped(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = [line[0]]
    for (_, before), (spent, value) in itertools.pairwise(line):
        found += [(spent, before), (spent, value)]
    return found


def table(both: Sequence[Searched], by: Objective) -> Table:
    """What both found; sealed figures where both were judged."""
    names = [name for name in both[0].sealed if all(name in one.sealed for one in both)]
    rows = []
    for one in both:
        finished = [t for t in one.drawn if t.status == FINISHED and by.better(t) is not None]
        best = max(finished, key=lambda t: by.better(t) or 0.0, default=None)
        chosen = next((t for t in one.trials if t.number == one.chosen), None)
        cells = [str(len(one.drawn)), f"{one.work:.1f}", _value(best, by), _value(chosen, by)]
        cells += [cell for name in names for cell in (number(one.sealed[name]), number(one.regret[name]))]
        rows.append((one.name, one.algorithm, cells))
    sealed = [head for name in names for head in (f"chosen: oracle {_last(name)}", "its regret")]
    columns = ["trials", "full runs' worth", f"best {_last(by.metric)}", f"chosen: {_last(by.metric)}", *sealed]
    note = "Repeats of finalists over seeds are not counted as work."
    return Table(title="Beside another search", note=note, columns=columns, rows=rows)


def _last(metric: str) -> str:
    return metric.rpartition("/")[2]


def _value(trial: Trial | None, by: Objective) -> str:
    value = None if trial is None else trial.last(by.metric)
    return NONE if value is None else number(value)
