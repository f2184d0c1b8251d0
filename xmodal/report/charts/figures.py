"""Charts of a report as inline SVG: lines over steps, intervals, histograms of two groups, scatter plots of pairs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from xmodal.formatting import Number, format_number, format_percent
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

LEFT, RIGHT, TOP, BOTTOM = 50, 8, 10, 26  # margins, in SVG units
MAX_POINTS = 240  # of a line; a longer series is averaged over neighbours
MAX_JOINED_PAIRS = 40  # pairs of a scatter plot that are joined by a line


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart; `color` is the index of its colour, 1..6."""

    label: str
    color: int
    x: Sequence[Number]
    y: Sequence[Number]


@dataclass(frozen=True, kw_only=True)
class ReferenceLine:
    """A labelled horizontal line to compare a series with."""

    value: Number
    label: str


def line_chart(
    series: Sequence[Series],
    label: str,
    *,
    references: Sequence[ReferenceLine] = (),
    from_zero: bool = False,
    share: bool = False,
    unit: str = "steps",
    x_prefix: str = "step",
) -> Markup:
    """Draw lines over training steps, or over the quantity that `unit` names.

    With `share` the y values are shares in [0, 1] and shown in percent. The page's script reads the values from the
    attribute `data-lines` and shows those under the pointer, with `x_prefix` before the x value.
    """
    height = 210
    lines = [_average_neighbours(line) for line in series]
    reference_values = [reference.value for reference in references]
    y = fit_scale([v for line in lines for v in line.y] + reference_values, height - BOTTOM, TOP, from_zero=from_zero)
    steps = [v for line in lines for v in line.x]
    x = Scale(low=min(0.0, min(steps)), high=max(steps) or 1.0, begin=LEFT, end=FIGURE_WIDTH - RIGHT)
    parts = [_y_grid(y, _whole_percent if share else tick_label), _x_axis(x, height, unit)]
    parts += [part for reference in references for part in _reference_parts(reference, y)]
    parts += [part for line in lines for part in _line_parts(line, x, y)]
    return svg_figure(height, label, *parts, data_lines=_pointer_data(lines, x, y, height, x_prefix, share=share))


def _average_neighbours(series: Series) -> Series:
    """Return the series with at most MAX_POINTS points, each the mean of its neighbours."""
    if len(series.x) <= MAX_POINTS:
        return series
    chunks = np.array_split(np.arange(len(series.x)), MAX_POINTS)
    x, y = np.asarray(series.x, float), np.asarray(series.y, float)
    return Series(
        label=series.label,
        color=series.color,
        x=[float(x[chunk].mean()) for chunk in chunks],
        y=[float(y[chunk].mean()) for chunk in chunks],
    )


def _reference_parts(reference: ReferenceLine, y: Scale) -> list[Markup]:
    right, height = FIGURE_WIDTH - RIGHT, y(reference.value)
    return [
        svg_element("line", class_="reference", x1=LEFT, x2=right, y1=height, y2=height),
        svg_text(reference.label, right, height - 5, class_="note", text_anchor="end"),
    ]


def _line_parts(line: Series, x: Scale, y: Scale) -> list[Markup]:
    """Return the path of a series, and a dot where it has a single point."""
    points = [(x(a), y(b)) for a, b in zip(line.x, line.y, strict=True)]
    parts = [svg_element("path", d=path_data(points), class_=f"line s{line.color}")]
    if len(points) == 1:
        parts.append(svg_element("circle", cx=points[0][0], cy=points[0][1], r=3, class_=f"dot s{line.color}"))
    return parts


def _pointer_data(lines: Sequence[Series], x: Scale, y: Scale, height: Number, x_prefix: str, *, share: bool) -> str:
    """Return what the page's script needs to show the values under the pointer, as JSON."""
    format_y: Callable[[Number], str] = format_percent if share else format_number
    format_x: Callable[[Number], Any] = round if x_prefix == "step" else format_number
    rows = [
        {
            "label": line.label,
            "color": line.color,
            "points": [
                [format_x(a), round(x(a), 1), round(y(b), 1), format_y(b)] for a, b in zip(line.x, line.y, strict=True)
            ],
        }
        for line in lines
    ]
    body = {"top": TOP, "bottom": height - BOTTOM, "x_prefix": x_prefix, "lines": rows}
    return json.dumps(body, separators=(",", ":"))


def _y_grid(y: Scale, format_tick: Callable[[Number], str]) -> Markup:
    parts = []
    for tick in y.ticks():
        parts.append(svg_element("line", class_="rule", x1=LEFT, x2=FIGURE_WIDTH - RIGHT, y1=y(tick), y2=y(tick)))
        parts.append(svg_text(format_tick(tick), LEFT - 7, y(tick) + 4, class_="tick", text_anchor="end"))
    return Markup("").join(parts)


def _x_axis(x: Scale, height: Number, unit: str) -> Markup:
    bottom = height - BOTTOM
    parts = [svg_element("line", class_="axis", x1=LEFT, x2=FIGURE_WIDTH - RIGHT, y1=bottom, y2=bottom)]
    ticks = x.ticks(4)
    for tick in ticks:
        words = f"{tick_label(tick)} {unit}" if tick == ticks[-1] else tick_label(tick)
        anchor = "end" if tick == ticks[-1] and x(tick) > FIGURE_WIDTH - 40 else "middle"
        parts.append(svg_text(words, x(tick), height - 8, class_="tick", text_anchor=anchor))
    return Markup("").join(parts)


@dataclass(frozen=True, kw_only=True)
class IntervalMark:
    """A value with its interval, in the colour of its run (1..6)."""

    color: int
    value: Number
    low: Number
    high: Number


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One metric of an interval chart: a mark for each run, and the chance level."""

    label: str
    marks: tuple[IntervalMark, ...]
    chance: Number | None = None


def interval_chart(rows: Sequence[IntervalRow], label: str) -> Markup:
    """Draw shares in [0, 1]: for each run a dot with its interval, and a short upright line at the chance level."""
    left, top, foot = 152, 6, 26
    row_heights = [max(26, 10 + 13 * len(row.marks)) for row in rows]
    height = top + sum(row_heights) + foot
    highest = max((mark.high for row in rows for mark in row.marks), default=1.0)
    x = Scale(low=0.0, high=min(1.0, max(0.05, highest * 1.05)), begin=left, end=FIGURE_WIDTH - 20)
    ticks = x.ticks(4)
    parts = [svg_element("line", class_="rule", x1=x(t), x2=x(t), y1=top, y2=height - foot) for t in ticks]
    parts += [svg_text(_whole_percent(t), x(t), height - 8, class_="tick", text_anchor="middle") for t in ticks]
    y = float(top)
    for row, row_height in zip(rows, row_heights, strict=True):
        parts += _interval_row(row, x, left, y, row_height)
        y += row_height
    return svg_figure(height, label, *parts)


def _interval_row(row: IntervalRow, x: Scale, left: int, top: float, height: int) -> list[Markup]:
    middle = top + height / 2
    parts = [svg_text(row.label, left - 10, middle + 4, class_="name", text_anchor="end")]
    if row.chance is not None:
        chance_x = x(min(row.chance, x.high))
        parts.append(svg_element("line", class_="chance", x1=chance_x, x2=chance_x, y1=top + 4, y2=top + height - 4))
    first = middle - 6.5 * (len(row.marks) - 1)
    return parts + [_interval_mark(mark, x, first + 13 * k) for k, mark in enumerate(row.marks)]


def _interval_mark(mark: IntervalMark, x: Scale, y: Number) -> Markup:
    return svg_element(
        "g",
        svg_element("line", class_=f"whisker s{mark.color}", x1=x(mark.low), x2=x(mark.high), y1=y, y2=y),
        svg_element("circle", class_=f"dot s{mark.color}", cx=x(mark.value), cy=y, r=4.5),
    )


@dataclass(frozen=True, kw_only=True)
class BarRow:
    """A share of a bar chart, with its standard deviation where it has one, in the colour of its run (1..6) or grey."""

    label: str
    value: Number
    sd: Number | None = None
    color: int | None = None


def bar_chart(rows: Sequence[BarRow], label: str, *, chance: Number | None = None) -> Markup:
    """Draw shares in [0, 1] as bars from zero, each below its label, and a short upright line at the chance level."""
    row_height, top, right = 40, 6, 96
    longest = max((row.value + (row.sd or 0) for row in rows), default=1.0)
    x = Scale(low=0.0, high=max(longest, chance or 0.0, 0.01), begin=0.0, end=FIGURE_WIDTH - right)
    tops = [top + row_height * k for k in range(len(rows))]
    parts = [_bar_row(row, x, y) for row, y in zip(rows, tops, strict=True)]
    if chance is not None:
        at = x(chance)
        parts += [svg_element("line", class_="chance", x1=at, x2=at, y1=y + 16, y2=y + 34) for y in tops]
    return svg_figure(top + row_height * len(rows), label, *parts)


def _bar_row(row: BarRow, x: Scale, top: Number) -> Markup:
    end, middle = x(row.value), top + 25
    color = "grey" if row.color is None else f"s{row.color}"
    value = format_percent(row.value) if row.sd is None else f"{format_percent(row.value)} ± {100 * row.sd:.1f}"
    parts = [
        svg_text(row.label, 0, top + 12, class_="name"),
        svg_element("rect", class_=f"bar {color}", x=0, y=top + 18, width=max(end, 1.0), height=14, rx=2),
    ]
    if row.sd is not None:
        low, end = x(max(0.0, row.value - row.sd)), x(row.value + row.sd)
        parts.append(svg_element("line", class_="error", x1=low, x2=end, y1=middle, y2=middle))
    return svg_element("g", *parts, svg_text(value, end + 8, middle + 4.5, class_="name"))


def histogram_chart(
    edges: Float[np.ndarray, "b1"], first: Float[np.ndarray, "b"], second: Float[np.ndarray, "b"], label: str
) -> Markup:
    """Draw two distributions over the same bins, the first in front, each scaled to its own highest bin."""
    height, base = 180, 180 - BOTTOM
    x = Scale(low=float(edges[0]), high=float(edges[-1]), begin=14, end=FIGURE_WIDTH - 14)
    parts = []
    for values, css_class in ((second, "second"), (first, "first")):
        y = Scale(low=0.0, high=float(values.max()) or 1.0, begin=base, end=TOP + 8)
        points = [(x(edges[0]), float(base))]
        for value, low, high in zip(values, edges[:-1], edges[1:], strict=True):
            points += [(x(low), y(value)), (x(high), y(value))]
        points.append((x(edges[-1]), float(base)))
        parts.append(svg_element("path", d=path_data(points), class_=f"area {css_class}"))
    parts.append(svg_element("line", class_="axis", x1=14, x2=FIGURE_WIDTH - 14, y1=base, y2=base))
    parts += [svg_text(tick_label(t), x(t), height - 8, class_="tick", text_anchor="middle") for t in x.ticks(5)]
    return svg_figure(height, label, *parts)


def scatter_chart(image: Float[np.ndarray, "P 2"], text: Float[np.ndarray, "P 2"], label: str) -> Markup:
    """Draw images as dots and texts as diamonds, both axes to the same scale; lines join the first few pairs."""
    points = np.concatenate([image, text])
    height, margin = 300, 12
    middle, extent = (points.max(0) + points.min(0)) / 2, np.maximum(points.max(0) - points.min(0), 1e-9)
    unit = min((FIGURE_WIDTH - 2 * margin) / float(extent[0]), (height - 2 * margin) / float(extent[1]))

    def to_svg(point: Float[np.ndarray, "2"]) -> tuple[float, float]:
        x, y = (point - middle) * unit
        return FIGURE_WIDTH / 2 + float(x), height / 2 - float(y)

    dots, diamonds = [to_svg(point) for point in image], [to_svg(point) for point in text]
    joins = [path_data(pair) for pair in list(zip(dots, diamonds, strict=True))[:MAX_JOINED_PAIRS]]
    return svg_figure(
        height,
        label,
        svg_element("path", d="".join(joins), class_="join"),
        svg_element("path", d="".join(f"M{x:.1f},{y:.1f}h0" for x, y in dots), class_="points image"),
        svg_element("path", d="".join(map(_diamond, diamonds)), class_="points text"),
    )


def _diamond(center: tuple[float, float]) -> str:
    return f"M{center[0]:.1f},{center[1] - 3.4:.1f}l3.4,3.4l-3.4,3.4l-3.4-3.4z"


def _whole_percent(share: Number) -> str:
    """Return a round share as a percentage, without the decimals that `format_percent` keeps."""
    return f"{100 * share:g} %".replace("-", "\u2212")
