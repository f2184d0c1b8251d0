"""SVG elements, axis scales and paths as text.

Colours are the page's: elements carry CSS classes, so that the light and the dark theme can differ.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from xmodal.formatting import Number, format_number

FIGURE_WIDTH = 400  # SVG units; a figure is as wide as its column, 300 to 520 px, so 12 units of type stay readable
MAX_SERIES = 6  # colours that can be told apart


def svg_element(name: str, *children: Markup, **attributes: object) -> Markup:
    """Return `<name ...>children</name>` with escaped attributes.

    `_` in the name of an attribute stands for `-`, a trailing `_` is dropped, and None omits the attribute.

    >>> svg_element("rect", x=1.5, stroke_width=2, class_="bar")
    Markup('<rect x="1.5" stroke-width="2" class="bar"></rect>')
    """
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{text}>{''.join(children)}</{name}>")  # every part is escaped above or is Markup


def svg_text(words: str, x: Number, y: Number, **attributes: object) -> Markup:
    """Return a text element at (x, y); `words` are escaped."""
    return svg_element("text", escape(words), x=x, y=y, **attributes)


def svg_figure(height: Number, label: str, *children: Markup, **attributes: object) -> Markup:
    """Return a complete SVG figure of FIGURE_WIDTH x `height` units; `label` describes it to screen readers."""
    return svg_element(
        "svg",
        *children,
        viewBox=f"0 0 {FIGURE_WIDTH} {_attribute_value(height)}",
        role="img",
        aria_label=label,
        class_="figure",
        **attributes,
    )


def _attribute_value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear map of data values in [low, high] to SVG units in [begin, end].

    >>> Scale(low=0, high=10, begin=50, end=150)(5)
    100.0
    """

    low: Number
    high: Number
    begin: Number
    end: Number

    def __call__(self, value: Number) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.begin + share * (self.end - self.begin)

    def ticks(self, about: int = 4) -> list[float]:
        """Return about that many round numbers between `low` and `high`."""
        step = _round_step((self.high - self.low) / max(1, about))
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def fit_scale(values: Iterable[Number], begin: Number, end: Number, *, from_zero: bool = False) -> Scale:
    """Return a scale that contains all values, widened to round numbers, and zero as well with `from_zero`.

    Where all values are equal, the scale leaves room around them.
    """
    numbers = list(values)
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-30):
        margin = abs(high) / 2 or 0.5
        low, high = (0.0 if from_zero and low == 0 else low - margin), high + margin
    step = _round_step((high - low) / 4)
    return Scale(
        low=math.floor(low / step + 1e-9) * step, high=math.ceil(high / step - 1e-9) * step, begin=begin, end=end
    )


def _round_step(rough: Number) -> float:
    """Return the next larger value of 1, 2 or 5 times a power of ten."""
    if not rough > 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= rough * (1 - 1e-9)), 10 * power)


def tick_label(value: Number) -> str:
    """Return the label of a round number: without the trailing zeros that `format_number` keeps.

    >>> tick_label(0.5), tick_label(1e-5)
    ('0.5', '1e−5')
    """
    label = format_number(value)
    return label.rstrip("0").rstrip(".") if "." in label and "e" not in label else label


def path_data(points: Iterable[tuple[Number, Number]]) -> str:
    """Return the `d` attribute of a path through the points, rounded to a tenth of a unit.

    >>> path_data([(0, 0), (10, 2.25)])
    'M0.0,0.0L10.0,2.2'
    """
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
