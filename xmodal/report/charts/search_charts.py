"""Charts of a hyper-parameter search as inline SVG.

Parallel coordinates of all trials, the metric over each field, the metric over the budget, the importance of fields and
smoothed response surfaces. The CSS class of a trial says how it did: `chosen`, the best fifth (`top`), `middle`, `low`,
or `ended` before the end of its budget. Better trials are drawn over worse ones, the chosen one last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from xmodal.formatting import Number, clean_text
from xmodal.report.charts.svg import (
    FIGURE_WIDTH,
    Scale,
    fit_scale,
    path_data,
    svg_element,
    svg_figure,
    svg_text,
    tick_label,
)
from xmodal.search.ranges import ChoiceRange, IntervalRange, NumberRange, Range

PAGE_WIDTH = 820  # SVG units of a figure that is as wide as the page
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 34  # margins, in SVG units
DRAWING_ORDER = {"ended": 0, "low": 1, "middle": 2, "top": 3, "chosen": 4}
Ticks = Sequence[tuple[Number, str]]  # position in [0, 1] along an axis, and its label


@dataclass(frozen=True, kw_only=True)
class TrialMark:
    """A trial as a chart shows it; `rank` lies in [0, 1] (0 is the best), None where the trial did not finish."""

    label: str
    value: Number | None
    rank: Number | None
    chosen: bool = False

    @property
    def css_class(self) -> str:
        """How the trial did, as the class of its line or dot."""
        if self.chosen:
            return "chosen"
        if self.rank is None:
            return "ended"
        return "top" if self.rank <= 0.2 else "middle" if self.rank <= 0.6 else "low"


@dataclass(frozen=True, kw_only=True)
class FieldAxis:
    """An axis for one number of a searched field.

    `position` maps a value of the field to [0, 1], or to None for a value outside of the range.
    """

    name: str
    position: Callable[[Any], float | None]
    ticks: Ticks


def field_axes(path: str, field_range: Range) -> list[FieldAxis]:
    """Return one axis for each number that a field of that range holds; `path` is the field's dotted name."""
    name = path.rpartition(".")[2].replace("_", " ")
    if isinstance(field_range, IntervalRange):
        ends = field_range.ends
        return [
            FieldAxis(name=f"{name} {end}", position=_number_position(ends, k), ticks=_number_ticks(ends))
            for k, end in enumerate(("low", "high"))
        ]
    if isinstance(field_range, ChoiceRange):
        size = len(field_range.values)
        ticks = [((k + 0.5) / size, clean_text(value, 14)) for k, value in enumerate(field_range.values)]
        return [FieldAxis(name=name, position=_choice_position(field_range), ticks=ticks)]
    assert isinstance(field_range, NumberRange)
    return [FieldAxis(name=name, position=_number_position(field_range), ticks=_number_ticks(field_range))]


def _choice_position(choice: ChoiceRange) -> Callable[[object], float | None]:
    def position(value: Any) -> float | None:
        units = choice.encode(value)
        return units[0] if units else None

    return position


def _number_position(number_range: NumberRange, index: int | None = None) -> Callable[[object], float | None]:
    """Return the position of a value, or of its element `index` where the value is a pair."""

    def position(value: Any) -> float | None:
        units = number_range.encode(value if index is None or value is None else value[index])
        return None if units is None else units[0]

    return position


def _number_ticks(number_range: NumberRange) -> Ticks:
    low, high = number_range.low, number_range.high
    if number_range.log:
        exponents = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        powers = [10.0**exponent for exponent in exponents]
        values: Sequence[Number] = powers if len(powers) > 1 else [low, high]
    else:
        values = Scale(low=low, high=high, begin=0, end=1).ticks(4)
    return [(number_range.unit_of(value), tick_label(value)) for value in values]


def parallel_coordinates(
    ranges: Sequence[tuple[str, Range]], rows: Sequence[tuple[TrialMark, Sequence[object]]], metric: str, label: str
) -> Markup:
    """Draw each trial as a line through one upright axis per field number and one for the metric on the right.

    `rows` hold each trial with its values, in the order of `ranges`.
    """
    axes = [(k, axis) for k, (path, field_range) in enumerate(ranges) for axis in field_axes(path, field_range)]
    top, bottom, height = 34, 250, 270
    metric_y = fit_scale([trial.value for trial, _ in rows if trial.value is not None], bottom, top)
    x = Scale(low=0, high=len(axes), begin=46, end=PAGE_WIDTH - 56)
    parts = [_lines_through_axes(axes, rows, x, metric_y, top, bottom)]
    for k, (_, axis) in enumerate(axes):
        ticks = [(bottom - (bottom - top) * position, words) for position, words in axis.ticks]
        parts.append(_vertical_axis(x(k), axis.name, ticks, top, bottom))
    ticks = [(metric_y(tick), tick_label(tick)) for tick in metric_y.ticks()]
    parts.append(_vertical_axis(x(len(axes)), metric, ticks, top, bottom, last=True))
    view_box = f"0 0 {PAGE_WIDTH} {height}"
    return svg_element("svg", *parts, viewBox=view_box, role="img", aria_label=label, class_="figure wide")


def _lines_through_axes(
    axes: Sequence[tuple[int, FieldAxis]],
    rows: Sequence[tuple[TrialMark, Sequence[object]]],
    x: Scale,
    metric_y: Scale,
    top: int,
    bottom: int,
) -> Markup:
    parts = []
    for trial, values in sorted(rows, key=lambda row: DRAWING_ORDER[row[0].css_class]):
        positions = [axis.position(values[k]) for k, axis in axes]
        points = [(x(i), bottom - (bottom - top) * u) for i, u in enumerate(positions) if u is not None]
        if trial.value is not None:
            points.append((x(len(axes)), metric_y(trial.value)))
        if len(points) > 1:
            parts.append(svg_element("path", _tooltip(trial), d=path_data(points), class_=f"trial {trial.css_class}"))
    return Markup("").join(parts)


def _tooltip(trial: TrialMark) -> Markup:
    return Markup("<title>{}</title>").format(trial.label)


def _vertical_axis(x: Number, name: str, ticks: Ticks, top: int, bottom: int, *, last: bool = False) -> Markup:
    """Draw an upright axis; `ticks` hold SVG heights. The words of the last axis stand to its right."""
    parts = [svg_element("line", class_="axis strong", x1=x, x2=x, y1=top, y2=bottom)]
    for y, words in ticks:
        parts.append(
            svg_text(words, x + 6 if last else x - 6, y + 4, class_="tick", text_anchor=None if last else "end")
        )
    anchor = "end" if last else "middle"
    parts.append(svg_text(clean_text(name, 22), x, top - 14, class_="name", text_anchor=anchor))
    return Markup("").join(parts)


def metric_over_field(
    axis: FieldAxis,
    rows: Sequence[tuple[TrialMark, object, Number]],
    label: str,
    *,
    baseline: Number | None = None,
) -> Markup:
    """Draw the metric over one number of a field.

    `rows` hold each trial, its value of the field and the metric's standard deviation over seeds (0 for one seed).
    """
    height = 220
    points = [
        (trial, position, trial.value, sd)
        for trial, value, sd in rows
        if (position := axis.position(value)) is not None and trial.value is not None
    ]
    extremes = [end for _, _, value, sd in points for end in (value - sd, value + sd)]
    y = fit_scale([*extremes, *([baseline] if baseline is not None else [])], height - BOTTOM, TOP)
    x = Scale(low=0, high=1, begin=LEFT, end=FIGURE_WIDTH - RIGHT)
    parts = axis_frame(x, y, axis.ticks, axis.name, height)
    if baseline is not None:
        right, line_y = FIGURE_WIDTH - RIGHT, y(baseline)
        parts.append(svg_element("line", class_="reference", x1=LEFT, x2=right, y1=line_y, y2=line_y))
        parts.append(svg_text("baseline", right, line_y - 5, class_="note", text_anchor="end"))
    for trial, position, value, sd in points:
        cx = x(position)
        if sd > 0:
            parts.append(svg_element("line", class_="whisker s1", x1=cx, x2=cx, y1=y(value - sd), y2=y(value + sd)))
        parts.append(_trial_dot(trial, cx, y(value), 4.5))
    return svg_figure(height, label, *parts)


def _trial_dot(trial: TrialMark, cx: Number, cy: Number, radius: Number) -> Markup:
    return svg_element("circle", _tooltip(trial), class_=f"mark {trial.css_class}", cx=cx, cy=cy, r=radius)


def axis_frame(x: Scale, y: Scale, ticks: Ticks, name: str, height: Number) -> list[Markup]:
    """Draw the grid and both axes of a figure; `ticks` and `name` are those of the x axis."""
    right, bottom = FIGURE_WIDTH - RIGHT, height - BOTTOM
    parts = []
    for tick in y.ticks():
        parts.append(svg_element("line", class_="rule", x1=LEFT, x2=right, y1=y(tick), y2=y(tick)))
        parts.append(svg_text(tick_label(tick), LEFT - 7, y(tick) + 4, class_="tick", text_anchor="end"))
    parts.append(svg_element("line", class_="axis", x1=LEFT, x2=right, y1=bottom, y2=bottom))
    parts += [_x_tick_label(words, x, position, height) for position, words in ticks]
    parts.append(svg_text(name, (LEFT + FIGURE_WIDTH - RIGHT) / 2, height - 3, class_="note", text_anchor="middle"))
    return parts


def _x_tick_label(words: str, x: Scale, position: Number, height: Number) -> Markup:
    """Draw a label under the x axis; at its right end the label stays inside of the figure."""
    anchor = "end" if position > 0.96 else "middle"
    return svg_text(words, x(position), height - 18, class_="tick", text_anchor=anchor)


def trial_curves(
    rows: Sequence[tuple[TrialMark, Sequence[tuple[Number, Number]]]],
    rungs: Sequence[Number],
    label: str,
) -> Markup:
    """Draw the metric over the share of the budget, a line for each trial; the rungs are upright lines."""
    height = 240
    x = Scale(low=0, high=1, begin=LEFT, end=FIGURE_WIDTH - RIGHT)
    y = fit_scale([value for _, line in rows for _, value in line], height - BOTTOM, TOP)
    ticks = [(share, f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    parts = axis_frame(x, y, ticks, "share of the budget", height)
    for rung in rungs:
        parts.append(svg_element("line", class_="reference", x1=x(rung), x2=x(rung), y1=TOP, y2=height - BOTTOM))
    for trial, line in sorted(rows, key=lambda row: DRAWING_ORDER[row[0].css_class]):
        if line:
            points = [(x(share), y(value)) for share, value in line]
            css_class = trial.css_class
            parts.append(svg_element("path", _tooltip(trial), d=path_data(points), class_=f"trial {css_class}"))
            parts.append(svg_element("circle", class_=f"mark {css_class}", cx=points[-1][0], cy=points[-1][1], r=2.5))
    return svg_figure(height, label, *parts)


def bar_chart(rows: Sequence[tuple[str, Number, Number]], label: str) -> Markup:
    """Draw a bar from 0 for each (dotted field name, mean, standard deviation), with one sd to both sides."""
    left, row_height, foot = 132, 30, 24
    height = 8 + row_height * len(rows) + foot
    extremes = [end for _, mean, sd in rows for end in (mean - sd, mean + sd)]
    x = fit_scale(extremes, left, FIGURE_WIDTH - 16, from_zero=True)
    parts = [svg_element("line", class_="rule", x1=x(t), x2=x(t), y1=6, y2=height - foot) for t in x.ticks()]
    parts += [svg_text(tick_label(t), x(t), height - 6, class_="tick", text_anchor="middle") for t in x.ticks()]
    for k, (path, mean, sd) in enumerate(rows):
        y = 8 + row_height * k + row_height / 2
        name = clean_text(path.rpartition(".")[2].replace("_", " "), 20)
        parts.append(svg_text(name, left - 10, y + 4, class_="name", text_anchor="end"))
        low, high = sorted((x(0), x(mean)))
        parts.append(svg_element("rect", class_="bar", x=low, y=y - 7, width=max(1.0, high - low), height=14, rx=2))
        parts.append(svg_element("line", class_="whisker s2", x1=x(mean - sd), x2=x(mean + sd), y1=y, y2=y))
    return svg_figure(height, label, *parts)


def response_surface(
    cells: Float[np.ndarray, "C C"],
    x_axis: FieldAxis,
    y_axis: FieldAxis,
    points: Sequence[tuple[TrialMark, Number, Number]],
    label: str,
) -> Markup:
    """Draw a smoothed response over two field numbers, strongest where it is best, with the trials as dots.

    `cells` hold the response over a grid of the unit_of square, rows along y; NaN cells stay empty. `points` hold each
    trial with its positions in [0, 1] on both axes.
    """
    height = 300
    x = Scale(low=0, high=1, begin=LEFT, end=FIGURE_WIDTH - RIGHT)
    y = Scale(low=0, high=1, begin=height - BOTTOM, end=TOP)
    parts = _surface_cells(cells, x, y)
    parts += [_x_tick_label(words, x, position, height) for position, words in x_axis.ticks]
    parts += [
        svg_text(words, LEFT - 7, y(position) + 4, class_="tick", text_anchor="end") for position, words in y_axis.ticks
    ]
    middle = (LEFT + FIGURE_WIDTH - RIGHT) / 2
    parts.append(svg_text(x_axis.name, middle, height - 3, class_="note", text_anchor="middle"))
    parts.append(svg_text(y_axis.name, LEFT + 4, TOP + 10, class_="note"))
    parts += [_trial_dot(trial, x(a), y(b), 4) for trial, a, b in points]
    return svg_figure(height, label, *parts)


def _surface_cells(cells: Float[np.ndarray, "C C"], x: Scale, y: Scale) -> list[Markup]:
    """Draw one rectangle for each finite cell; the better the response, the stronger its colour."""
    count, low, high = len(cells), np.nanmin(cells), np.nanmax(cells)
    size = {"width": x(1 / count) - x(0) + 0.4, "height": y(0) - y(1 / count) + 0.4}
    parts = []
    for row, column in np.argwhere(np.isfinite(cells)).tolist():
        share = float((cells[row, column] - low) / ((high - low) or 1.0))
        corner = {"x": x(column / count), "y": y((row + 1) / count)}
        parts.append(svg_element("rect", class_="cell", opacity=0.04 + 0.8 * share, **corner, **size))
    return parts
