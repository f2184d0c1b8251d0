"""Series of numbers in, the figures of a report as inline SVG out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from xmodal.formatting import number, percent
from xmodal.report.charts.svg import WIDTH, Number, Scale, element, figure, path, spanning, text

LEFT, RIGHT, TOP, BOTTOM = 50, 8, 10, 26
MOST_POINTS = 240  # of a line; more are means of neighbours


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line; `slot` (1..6) is the colour of its run."""

    label: str
    slot: int
    x: Sequence[Number]
    y: Sequence[Number]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A horizontal line to compare with."""

    value: Number
    label: str


def lines(
    series: Sequence[Line],
    label: str,
    *,
    references: Sequence[Reference] = (),
    from_zero: bool = False,
    share: bool = False,
    unit: str = "steps",
    along: str = "step",
) -> Markup:
    """Lines over training steps, or what else `unit` names; a script may show values from `data-lines`.

    `along` is what the script says before a place on the line.
    """
    height = 210
    drawn = [_thinned(one) for one in series]
    marks = [mark.value for mark in references]
    y = spanning([v for one in drawn for v in one.y] + marks, height - BOTTOM, TOP, from_zero=from_zero)
    steps = [v for one in drawn for v in one.x]
    x = Scale(low=min(0.0, min(steps)), high=max(steps) or 1.0, begin=LEFT, end=WIDTH - RIGHT)
    shown = _whole_percent if share else _tick
    parts = [_grid(y, shown), _along(x, height, unit)]
    for mark in references:
        parts.append(element("line", class_="reference", x1=LEFT, x2=WIDTH - RIGHT, y1=y(mark.value), y2=y(mark.value)))
        parts.append(text(mark.label, WIDTH - RIGHT, y(mark.value) - 5, class_="note", text_anchor="end"))
    for one in drawn:
        points = [(x(a), y(b)) for a, b in zip(one.x, one.y, strict=True)]
        parts.append(element("path", d=path(points), class_=f"line s{one.slot}"))
        if len(points) == 1:
            parts.append(element("circle", cx=points[0][0], cy=points[0][1], r=3, class_=f"dot s{one.slot}"))
    return figure(height, label, *parts, data_lines=_hover(drawn, x, y, height, along, share=share))


def _thinned(line: Line) -> Line:
    """At most MOST_POINTS points, each the mean of its neighbours."""
    if len(line.x) <= MOST_POINTS:
        return line
    parts = np.array_split(np.arange(len(line.x)), MOST_POINTS)
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    return Line(
        label=line.label,
        slot=line.slot,
        x=[float(x[part].mean()) for part in parts],
        y=[float(y[part].mean()) for part in parts],
    )


def _hover(drawn: Sequence[Line], x: Scale, y: Scale, height: Number, along: str, *, share: bool) -> str:
    shown = percent if share else number
    place = round if along == "step" else number
    told = [
        {
            "label": one.label,
            "slot": one.slot,
            "points": [[place(a), round(x(a), 1), round(y(b), 1), shown(b)] for a, b in zip(one.x, one.y, strict=True)],
        }
        for one in drawn
    ]
    return json.dumps({"top": TOP, "bottom": height - BOTTOM, "along": along, "lines": told}, separators=(",", ":"))


def _grid(y: Scale, shown: Callable[[Number], str]) -> Markup:
    parts = []
    for tick in y.ticks():
        parts.append(element("line", class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick)))
        parts.append(text(shown(tick), LEFT - 7, y(tick) + 4, class_="tick", text_anchor="end"))
    return Markup("").join(parts)


def _along(x: Scale, height: Number, unit: str) -> Markup:
    parts = [element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=height - BOTTOM, y2=height - BOTTOM)]
    ticks = x.ticks(4)
    for tick in ticks:
        words = f"{_tick(tick)} {unit}" if tick == ticks[-1] else _tick(tick)
        anchor = "end" if tick == ticks[-1] and x(tick) > WIDTH - 40 else "middle"
        parts.append(text(words, x(tick), height - 8, class_="tick", text_anchor=anchor))
    return Markup("").join(parts)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value with its interval, in the colour of its run."""

    slot: int
    value: Number
    low: Number
    high: Number


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric: a mark for each run, and what guessing gives."""

    label: str
    marks: tuple[Mark, ...]
    chance: Number | None = None


def intervals(rows: Sequence[Row], label: str) -> Markup:
    """Shares in [0, 1]: a dot with its interval for each run, a short upright line where chance lies."""
    left, top, foot = 152, 6, 26
    pitch = [max(26, 10 + 13 * len(row.marks)) for row in rows]
    height = top + sum(pitch) + foot
    highest = max((m.high for row in rows for m in row.marks), default=1.0)
    x = Scale(low=0.0, high=min(1.0, max(0.05, highest * 1.05)), begin=left, end=WIDTH - 20)
    ticks = x.ticks(4)
    parts = [element("line", class_="rule", x1=x(t), x2=x(t), y1=top, y2=height - foot) for t in ticks]
    parts += [text(_whole_percent(t), x(t), height - 8, class_="tick", text_anchor="middle") for t in ticks]
    begin = float(top)
    for row, room in zip(rows, pitch, strict=True):
        middle = begin + room / 2
        parts.append(text(row.label, left - 10, middle + 4, class_="name", text_anchor="end"))
        if row.chance is not None:
            at = x(min(row.chance, x.high))
            parts.append(element("line", class_="chance", x1=at, x2=at, y1=begin + 4, y2=begin + room - 4))
        first = middle - 6.5 * (len(row.marks) - 1)
        for place, mark in enumerate(row.marks):
            parts.append(_interval(mark, x, first + 13 * place))
        begin += room
    return figure(height, label, *parts)


def _interval(mark: Mark, x: Scale, y: Number) -> Markup:
    return element(
        "g",
        element("line", class_=f"whisker s{mark.slot}", x1=x(mark.low), x2=x(mark.high), y1=y, y2=y),
        element("circle", class_=f"dot s{mark.slot}", cx=x(mark.value), cy=y, r=4.5),
    )


def histogram(edges: Float[np.ndarray, "b1"], right: np.ndarray, wrong: np.ndarray, label: str) -> Markup:
    """Two distributions of cosines over the same bins, each scaled to its own highest bin."""
    height, base = 180, 180 - BOTTOM
    x = Scale(low=float(edges[0]), high=float(edges[-1]), begin=14, end=WIDTH - 14)
    parts = []
    for values, slot in ((wrong, "wrong"), (right, "right")):
        y = Scale(low=0.0, high=float(values.max()) or 1.0, begin=base, end=TOP + 8)
        points = [(x(edges[0]), float(base))]
        for value, low, high in zip(values, edges[:-1], edges[1:], strict=True):
            points += [(x(low), y(value)), (x(high), y(value))]
        points.append((x(edges[-1]), float(base)))
        parts.append(element("path", d=path(points), class_=f"area {slot}"))
    parts.append(element("line", class_="axis", x1=14, x2=WIDTH - 14, y1=base, y2=base))
    parts += [text(_tick(t), x(t), height - 8, class_="tick", text_anchor="middle") for t in x.ticks(5)]
    return figure(height, label, *parts)


def scatter(image: Float[np.ndarray, "s 2"], words: Float[np.ndarray, "s 2"], label: str) -> Markup:
    """Pictures as dots, captions as diamonds, both axes to the same scale; the first few pairs are joined."""
    both = np.concatenate([image, words])
    height, room = 300, 12
    middle, spread = (both.max(0) + both.min(0)) / 2, np.maximum(both.max(0) - both.min(0), 1e-9)
    unit = min((WIDTH - 2 * room) / float(spread[0]), (height - 2 * room) / float(spread[1]))

    def place(point: np.ndarray) -> tuple[float, float]:
        across, up = (point - middle) * unit
        return WIDTH / 2 + float(across), height / 2 - float(up)

    joins = [path([place(a), place(b)]) for a, b in zip(image[:40], words[:40], strict=True)]
    dots = [(x, y) for x, y in map(place, image)]
    diamonds = [(x, y) for x, y in map(place, words)]
    return figure(
        height,
        label,
        element("path", d="".join(joins), class_="join"),
        element("path", d="".join(f"M{x:.1f},{y:.1f}h0" for x, y in dots), class_="points image"),
        element("path", d="".join(map(_diamond, diamonds)), class_="points text"),
    )


def _diamond(centre: tuple[float, float]) -> str:
    return f"M{centre[0]:.1f},{centre[1] - 3.4:.1f}l3.4,3.4l-3.4,3.4l-3.4-3.4z"


def _whole_percent(share: Number) -> str:
    """A round share as a percentage without the decimals that `percent` keeps."""
    return f"{100 * share:g} %".replace("-", "\u2212")


def _tick(value: Number) -> str:
    """A round number without the zeros that `number` keeps."""
    shown = number(value)
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown
