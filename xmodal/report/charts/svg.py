"""Shapes and axes in numbers in, SVG text out. Colours are the page's: classes, so that light and dark differ."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from xmodal.formatting import Number

WIDTH = 400  # units; a figure is as wide as its column, 300 to 520 px, so 12 units of type stay readable
MOST_SERIES = 6  # colours that can be told apart


def element(name: str, *inside: Markup, **attributes: object) -> Markup:
    """`<name ...>inside</name>`, attributes escaped; `_` in their names stands for `-`, a trailing one falls."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(inside)}</{name}>")  # every part is escaped above or is Markup


def text(words: str, x: Number, y: Number, **attributes: object) -> Markup:
    return element("text", escape(words), x=x, y=y, **attributes)


def figure(height: Number, label: str, *inside: Markup, **attributes: object) -> Markup:
    """A whole figure; `label` tells a screen reader what is seen."""
    return element(
        "svg",
        *inside,
        viewBox=f"0 0 {WIDTH} {_short(height)}",
        role="img",
        aria_label=label,
        class_="figure",
        **attributes,
    )


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values from `low` to `high` onto units from `begin` to `end`."""

    low: Number
    high: Number
    begin: Number
    end: Number

    def __call__(self, value: Number) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.begin + share * (self.end - self.begin)

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers between `low` and `high`."""
        step = _round_step((self.high - self.low) / max(1, about))
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def spanning(values: Iterable[Number], begin: Number, end: Number, *, from_zero: bool = False) -> Scale:
    """A scale that holds all values, widened to round numbers; values that are all alike get room around them."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-30):
        room = abs(high) / 2 or 0.5
        low, high = (0.0 if from_zero and low == 0 else low - room), high + room
    step = _round_step((high - low) / 4)
    return Scale(
        low=math.floor(low / step + 1e-9) * step, high=math.ceil(high / step - 1e-9) * step, begin=begin, end=end
    )


def _round_step(rough: Number) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if not rough > 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= rough * (1 - 1e-9)), 10 * power)


def path(points: Iterable[tuple[Number, Number]]) -> str:
    """A path through the points, to a tenth of a unit."""
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
