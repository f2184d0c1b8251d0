"""Trials of a search in; parallel coordinates, the metric over each field, curves, importance and surfaces as SVG out.

A trial's colour is its place among those that finished (s1 the best fifth, s6 the rest); the chosen one is drawn last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from xmodal.formatting import clean, number
from xmodal.report.charts.svg import WIDTH, Number, Scale, element, figure, path, spanning, text
from xmodal.search.ranges import Choice, Interval, Range
from xmodal.search.ranges import Number as NumberRange

WIDE = 820  # units of the figure that is as wide as the page
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 34


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A trial as a figure shows it: `rank` in [0, 1] (0 the best), None where it did not finish."""

    label: str
    value: Number | None
    rank: Number | None
    chosen: bool = False
    baseline: bool = False

    @property
    def look(self) -> str:
        if self.chosen:
            return "chosen"
        if self.rank is None:
            return "ended"
        return "top" if self.rank <= 0.2 else "middle" if self.rank <= 0.6 else "low"


def axes_of(label: str, one: Range) -> list[tuple[str, Callable[[Any], Any], list[tuple[Number, str]]]]:
    """For each number that a field holds: its name, where a value lies in [0, 1], and the words along the axis."""
    short = label.rpartition(".")[2].replace("_", " ")
    if isinstance(one, Interval):
        ends = one.ends
        return [(f"{short} {end}", _at(ends, k), _ticks(ends)) for k, end in enumerate(("low", "high"))]
    if isinstance(one, Choice):
        marks = [((k + 0.5) / len(one.values), clean(value, 14)) for k, value in enumerate(one.values)]
        return [(short, lambda value: (found := one.encode(value)) and found[0], marks)]
    assert isinstance(one, NumberRange)
    return [(short, _at(one), _ticks(one))]


def _at(one: NumberRange, place: int | None = None) -> Callable[[Any], Any]:
    def at(value: Any) -> float | None:
        inner = value if place is None or value is None else value[place]
        found = one.encode(inner)
        return None if found is None else found[0]

    return at


def _ticks(one: NumberRange) -> list[tuple[Number, str]]:
    if one.log:
        powers = range(math.ceil(math.log10(one.low) - 1e-9), math.floor(math.log10(one.high) + 1e-9) + 1)
        found = [10.0**p for p in powers]
        values = found if len(found) > 1 else [one.low, one.high]
    else:
        values = Scale(low=one.low, high=one.high, begin=0, end=1).ticks(4)
    return [(one.unit(value), number(value)) for value in values]


def parallel(
    ranges: Sequence[tuple[str, Range]], rows: Sequence[tuple[Drawn, Sequence[Any]]], metric: str, label: str
) -> Markup:
    """A line for each trial through an upright axis for each field, and one for the metric on the right."""
    axes = [(name, at, marks, k) for k, (path_, one) in enumerate(ranges) for name, at, marks in axes_of(path_, one)]
    measured = [drawn.value for drawn, _ in rows if drawn.value is not None]
    top, bottom, height = 34, 250, 270
    y_metric = spanning(measured, bottom, top)
    x = Scale(low=0, high=len(axes), begin=46, end=WIDE - 56)
    parts = [_lines_through(axes, rows, x, y_metric, top, bottom)]
    for k, (name, _, marks, _) in enumerate(axes):
        parts.append(_upright(x(k), name, [(bottom - (bottom - top) * u, words) for u, words in marks], top, bottom))
    ticks = [(y_metric(t), number(t)) for t in y_metric.ticks()]
    parts.append(_upright(x(len(axes)), metric, ticks, top, bottom, last=True))
    return element(
        "svg", *parts, viewBox=f"0 0 {WIDE} {height}", role="img", aria_label=label, class_="figure wide"
    )  # fmt: skip


def _lines_through(
    axes: Sequence[Any], rows: Sequence[tuple[Drawn, Sequence[Any]]], x: Scale, y: Scale, top: int, bottom: int
) -> Markup:
    order = {"ended": 0, "low": 1, "middle": 2, "top": 3, "chosen": 4}
    parts = []
    for drawn, values in sorted(rows, key=lambda row: order[row[0].look]):
        units = [at(values[k]) for _, at, _, k in axes]
        points = [(x(i), bottom - (bottom - top) * u) for i, u in enumerate(units) if u is not None]
        if drawn.value is not None:
            points.append((x(len(axes)), y(drawn.value)))
        if len(points) > 1:
            title = Markup("<title>{}</title>").format(drawn.label)
            parts.append(element("path", title, d=path(points), class_=f"trial {drawn.look}"))
    return Markup("").join(parts)


def _upright(
    at: Number, name: str, marks: Sequence[tuple[Number, str]], top: int, bottom: int, *, last: bool = False
) -> Markup:
    parts = [element("line", class_="axis strong", x1=at, x2=at, y1=top, y2=bottom)]
    for height, words in marks:
        side = dict(x=at + 6) if last else dict(x=at - 6, text_anchor="end")
        parts.append(element("text", Markup.escape(words), y=height + 4, class_="tick", **side))
    parts.append(text(clean(name, 22), at, top - 14, class_="name", text_anchor="end" if last else "middle"))
    return Markup("").join(parts)


def over_field(
    axis: tuple[str, Callable[[Any], Any], list[tuple[Number, str]]],
    rows: Sequence[tuple[Drawn, Any, Number]],
    label: str,
    *,
    baseline: Number | None = None,
) -> Markup:
    """The metric over one number: a dot for each trial, a bar of one standard deviation where seeds were repeated."""
    name, at, marks = axis
    height = 220
    found = [
        (drawn, unit, sd) for drawn, value, sd in rows if (unit := at(value)) is not None and drawn.value is not None
    ]
    reach = [v for drawn, _, sd in found for v in (_value(drawn) - sd, _value(drawn) + sd)]
    y = spanning([*reach, *([baseline] if baseline is not None else [])], height - BOTTOM, TOP)
    x = Scale(low=0, high=1, begin=LEFT, end=WIDTH - RIGHT)
    parts = framed(x, y, marks, name, height)
    if baseline is not None:
        parts.append(element("line", class_="reference", x1=LEFT, x2=WIDTH - RIGHT, y1=y(baseline), y2=y(baseline)))
        parts.append(text("baseline", WIDTH - RIGHT, y(baseline) - 5, class_="note", text_anchor="end"))
    for drawn, unit, sd in found:
        value = _value(drawn)
        if sd > 0:
            parts.append(
                element("line", class_="whisker s1", x1=x(unit), x2=x(unit), y1=y(value - sd), y2=y(value + sd))
            )  # fmt: skip
        title = Markup("<title>{}</title>").format(drawn.label)
        parts.append(element("circle", title, class_=f"mark {drawn.look}", cx=x(unit), cy=y(value), r=4.5))
    return figure(height, label, *parts)


def _value(drawn: Drawn) -> Number:
    assert drawn.value is not None
    return drawn.value


def framed(x: Scale, y: Scale, marks: Sequence[tuple[Number, str]], name: str, height: Number) -> list[Markup]:
    """Rules and words of a figure's axes."""
    parts = []
    for tick in y.ticks():
        parts.append(element("line", class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick)))
        parts.append(text(number(tick), LEFT - 7, y(tick) + 4, class_="tick", text_anchor="end"))
    parts.append(element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=height - BOTTOM, y2=height - BOTTOM))
    parts += [_below(words, x, u, height) for u, words in marks]
    parts.append(text(name, (LEFT + WIDTH - RIGHT) / 2, height - 3, class_="note", text_anchor="middle"))
    return parts


def _below(words: str, x: Scale, unit: Number, height: Number) -> Markup:
    """A word under the axis; at its end it stays inside of the figure."""
    return text(words, x(unit), height - 18, class_="tick", text_anchor="end" if unit > 0.96 else "middle")


def curves(
    rows: Sequence[tuple[Drawn, Sequence[tuple[Number, Number]]]], places: Sequence[Number], label: str
) -> Markup:
    """The metric over shares of the budget, a line for each trial; the rungs are upright lines."""
    height = 240
    points = [(share, value) for _, line in rows for share, value in line]
    x = Scale(low=0, high=1, begin=LEFT, end=WIDTH - RIGHT)
    y = spanning([value for _, value in points], height - BOTTOM, TOP)
    marks = [(share, f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts = framed(x, y, marks, "share of the budget", height)
    for place in places:
        parts.append(element("line", class_="reference", x1=x(place), x2=x(place), y1=TOP, y2=height - BOTTOM))
    order = {"ended": 0, "low": 1, "middle": 2, "top": 3, "chosen": 4}
    for drawn, line in sorted(rows, key=lambda row: order[row[0].look]):
        if line:
            title = Markup("<title>{}</title>").format(drawn.label)
            drawn_path = path([(x(share), y(value)) for share, value in line])
            parts.append(element("path", title, d=drawn_path, class_=f"trial {drawn.look}"))
            parts.append(element("circle", class_=f"mark {drawn.look}", cx=x(line[-1][0]), cy=y(line[-1][1]), r=2.5))
    return figure(height, label, *parts)


def bars(rows: Sequence[tuple[str, Number, Number]], label: str) -> Markup:
    """A bar from 0 for each (name, mean, sd), with one sd to both sides."""
    left, pitch, foot = 132, 30, 24
    height = 8 + pitch * len(rows) + foot
    x = spanning([v for _, mean, sd in rows for v in (mean - sd, mean + sd)], left, WIDTH - 16, from_zero=True)
    parts = [element("line", class_="rule", x1=x(t), x2=x(t), y1=6, y2=height - foot) for t in x.ticks()]
    parts += [text(number(t), x(t), height - 6, class_="tick", text_anchor="middle") for t in x.ticks()]
    for k, (name, mean, sd) in enumerate(rows):
        y = 8 + pitch * k + pitch / 2
        parts.append(
            text(
                clean(name.rpartition(".")[2].replace("_", " "), 20), left - 10, y + 4, class_="name", text_anchor="end"
            )
        )
        low, high = sorted((x(0), x(mean)))
        parts.append(element("rect", class_="bar", x=low, y=y - 7, width=max(1.0, high - low), height=14, rx=2))
        parts.append(element("line", class_="whisker s2", x1=x(mean - sd), x2=x(mean + sd), y1=y, y2=y))
    return figure(height, label, *parts)


def surface(
    cells: Float[np.ndarray, "c c"],
    across: tuple[str, list[tuple[Number, str]]],
    up: tuple[str, list[tuple[Number, str]]],
    places: Sequence[tuple[Drawn, Number, Number]],
    label: str,
) -> Markup:
    """A smoothed response over two numbers, light where it is best, with the trials as dots; NaN cells stay empty."""
    height, count = 300, len(cells)
    x = Scale(low=0, high=1, begin=LEFT, end=WIDTH - RIGHT)
    y = Scale(low=0, high=1, begin=height - BOTTOM, end=TOP)
    low, high = np.nanmin(cells), np.nanmax(cells)
    parts = []
    for row, column in np.argwhere(np.isfinite(cells)).tolist():
        share = float((cells[row, column] - low) / ((high - low) or 1.0))
        at = {"x": x(column / count), "y": y((row + 1) / count)}
        size = {"width": x(1 / count) - x(0) + 0.4, "height": y(0) - y(1 / count) + 0.4}
        parts.append(element("rect", class_="cell", opacity=0.04 + 0.8 * share, **at, **size))
    parts += [_below(words, x, u, height) for u, words in across[1]]
    parts += [text(words, LEFT - 7, y(u) + 4, class_="tick", text_anchor="end") for u, words in up[1]]
    parts.append(text(across[0], (LEFT + WIDTH - RIGHT) / 2, height - 3, class_="note", text_anchor="middle"))
    parts.append(text(up[0], LEFT + 4, TOP + 10, class_="note"))
    for drawn, a, b in places:
        title = Markup("<title>{}</title>").format(drawn.label)
        parts.append(element("circle", title, class_=f"mark {drawn.look}", cx=x(a), cy=y(b), r=4))
    return figure(height, label, *parts)
