"""Points with two coordinates in, figures of a page on adaptation out: the plane of prices and gains, and clouds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from xmodal.formatting import percent
from xmodal.report.charts.svg import MOST_SERIES, WIDTH, element, figure, spanning, text

LEFT, RIGHT, TOP, BOTTOM = 54, 24, 12, 30
Point = tuple[float, float]


def plane(clouds: Sequence[Sequence[Point]], label: str, within: Sequence[Point]) -> Markup:
    """What each candidate gives up on the source (across) and wins on the target (up), shares; a colour a cloud.

    The axes hold all points of `within`, so that planes of the same points can be compared.
    """
    height = 300
    x = spanning([across for across, _ in within] + [0.0], LEFT, WIDTH - RIGHT)
    y = spanning([up for _, up in within] + [0.0], height - BOTTOM, TOP)
    parts = [element("line", class_="rule", x1=LEFT, x2=WIDTH - RIGHT, y1=y(t), y2=y(t)) for t in y.ticks()]
    parts += [text(percent(t), LEFT - 6, y(t) + 4, class_="tick", text_anchor="end") for t in y.ticks()]
    parts += [text(percent(t), x(t), height - 9, class_="tick", text_anchor="middle") for t in x.ticks(4)]
    parts.append(element("line", class_="axis", x1=x(0), x2=x(0), y1=TOP, y2=height - BOTTOM))
    parts.append(element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=y(0), y2=y(0)))
    for slot, cloud in enumerate(clouds, 1):
        parts += [element("circle", cx=x(a), cy=y(b), r=3.4, class_=f"dot s{slot}") for a, b in cloud]
    return figure(height, label, *parts)


def clouds(places: Mapping[str, Any], classes: Mapping[str, Sequence[int]], label: str, *, by_class: bool) -> Markup:
    """Both domains in one plane, the source as rings, the target as dots; coloured by domain, or by class (mod 6)."""
    height, room = 300, 12
    both = np.array(places["source"] + places["target"], float)
    middle, span = (both.max(0) + both.min(0)) / 2, np.maximum(both.max(0) - both.min(0), 1e-9)
    unit = min((WIDTH - 2 * room) / span[0], (height - 2 * room) / span[1])
    parts = []
    for domain, slot in (("source", 1), ("target", 2)):
        for place, kind in zip(places[domain], classes[domain], strict=True):
            across, up = (np.array(place) - middle) * unit
            colour = kind % MOST_SERIES + 1 if by_class else slot
            ring = {"fill_opacity": 0.25} if domain == "source" else {}
            at = {"cx": float(WIDTH / 2 + across), "cy": float(height / 2 - up)}
            parts.append(element("circle", **at, r=3, class_=f"dot s{colour}", **ring))
    return figure(height, label, *parts)
