"""Ranges that a swept field is drawn from: numbers of the unit interval in, values of the field out, and back.

A proposal is a point of the unit cube; that a low end never lies above its high one is a property of the encoding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Units = tuple[float, ...]


@runtime_checkable
class Range(Protocol):
    """`size` numbers of [0, 1] say a value."""

    @property
    def size(self) -> int: ...
    def decode(self, units: Sequence[int | float]) -> Any: ...
    def encode(self, value: Any) -> Units | None:
        """The units of a value; None for one outside."""
        ...

    def grid(self, points: int) -> list[Any]:
        """At most `points` values (of an interval: pairs of ends), evenly over the range."""
        ...


@dataclass(frozen=True, kw_only=True)
class Number:
    """From `low` to `high`, evenly or (`log`) by orders of magnitude; `whole` numbers have both ends in."""

    low: int | float
    high: int | float
    log: bool = False
    whole: bool = False
    size: int = 1

    def decode(self, units: Sequence[int | float]) -> float | int:
        if not self.whole:
            return self.at(units[0])
        low, high = int(self.low), int(self.high)
        return min(high, max(low, round(self.at(units[0]))))

    def encode(self, value: Any) -> Units | None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            return None
        return (self.unit(value),)

    def grid(self, points: int) -> list[Any]:
        values = (
            [self.decode((k / max(1, points - 1),)) for k in range(points)] if points > 1 else [self.decode((0.5,))]
        )
        return list(dict.fromkeys(values))

    def at(self, unit: int | float) -> int | float:
        if self.log:
            value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + unit * (self.high - self.low)
        return min(self.high, max(self.low, value))

    def unit(self, value: int | float) -> float:
        low, high, x = (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return min(1.0, max(0.0, (x - low) / ((high - low) or 1.0)))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]
    size: int = 1

    def decode(self, units: Sequence[int | float]) -> Any:
        return self.values[min(len(self.values) - 1, int(units[0] * len(self.values)))]

    def encode(self, value: Any) -> Units | None:
        if value not in self.values:
            return None
        return ((self.values.index(value) + 0.5) / len(self.values),)

    def grid(self, points: int) -> list[Any]:
        return list(self.values)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A pair (low, high) of ends within `ends`: the low one, then how much of the rest lies between the two.

    The first unit is bent so that uniform units fill the triangle low <= high evenly.
    """

    ends: Number
    size: int = 2

    def decode(self, units: Sequence[int | float]) -> tuple[int | float, int | float]:
        low = 1.0 - math.sqrt(1.0 - min(1.0, max(0.0, units[0])))
        high = min(1.0, low + units[1] * (1.0 - low))
        a, b = self.ends.at(low), self.ends.at(high)
        return (min(a, b), max(a, b))

    def encode(self, value: Any) -> Units | None:
        if not isinstance(value, tuple | list) or len(value) != 2 or value[0] > value[1]:
            return None
        found = [self.ends.encode(end) for end in value]
        if found[0] is None or found[1] is None:
            return None
        low, high = found[0][0], found[1][0]
        return (1.0 - (1.0 - low) ** 2, (high - low) / (1.0 - low) if low < 1.0 else 0.0)

    def grid(self, points: int) -> list[Any]:
        ends = self.ends.grid(points)
        return [(a, b) for a in ends for b in ends if a <= b]
