"""Draw the charts that only pages on adaptation have: gains against losses, and projections of both domains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from xmodal.formatting import format_percent
from xmodal.report.charts.svg import FIGURE_WIDTH, MAX_SERIES, fit_scale, svg_element, svg_figure, svg_text

LEFT, RIGHT, TOP, BOTTOM = 54, 24, 12, 30
Point = tuple[float, float]


def tradeoff_chart(clouds: Sequence[Sequence[Point]], label: str, all_points: Sequence[Point]) -> Markup:
    """Draw the change on the source (horizontal) and on the target (vertical) of every candidate, a colour a method.

    The axes span `all_points`, so that several charts of the same points can be compared.
    """
    height = 300
    x = fit_scale([loss for loss, _ in all_points] + [0.0], LEFT, FIGURE_WIDTH - RIGHT)
    y = fit_scale([gain for _, gain in all_points] + [0.0], height - BOTTOM, TOP)
    parts = [svg_element("line", class_="rule", x1=LEFT, x2=FIGURE_WIDTH - RIGHT, y1=y(t), y2=y(t)) for t in y.ticks()]
    parts += [svg_text(format_percent(t), LEFT - 6, y(t) + 4, class_="tick", text_anchor="end") for t in y.ticks()]
    parts += [svg_text(format_percent(t), x(t), height - 9, class_="tick", text_anchor="middle") for t in x.ticks(4)]
    parts.append(svg_element("line", class_="axis", x1=x(0), x2=x(0), y1=TOP, y2=height - BOTTOM))
    parts.append(svg_element("line", class_="axis", x1=LEFT, x2=FIGURE_WIDTH - RIGHT, y1=y(0), y2=y(0)))
    for slot, cloud in enumerate(clouds, 1):
        parts += [svg_element("circle", cx=x(loss), cy=y(gain), r=3.4, class_=f"dot s{slot}") for loss, gain in cloud]
    return svg_figure(height, label, *parts)


def projection_chart(
    coordinates: Mapping[str, Any], classes: Mapping[str, Sequence[int]], label: str, *, by_class: bool
) -> Markup:
    """Draw both domains in one plane, the source as rings, the target as dots; coloured by domain or class (mod 6)."""
    height, margin = 300, 12
    points = np.array(coordinates["source"] + coordinates["target"], float)
    centre, extent = (points.max(0) + points.min(0)) / 2, np.maximum(points.max(0) - points.min(0), 1e-9)
    unit = min((FIGURE_WIDTH - 2 * margin) / extent[0], (height - 2 * margin) / extent[1])
    parts = []
    for domain, slot in (("source", 1), ("target", 2)):
        for point, class_number in zip(coordinates[domain], classes[domain], strict=True):
            x, y = (np.array(point) - centre) * unit
            colour = class_number % MAX_SERIES + 1 if by_class else slot
            ring = {"fill_opacity": 0.25} if domain == "source" else {}
            position = {"cx": float(FIGURE_WIDTH / 2 + x), "cy": float(height / 2 - y)}
            parts.append(svg_element("circle", **position, r=3, class_=f"dot s{colour}", **ring))
    return svg_figure(height, label, *parts)
