"""The ranges of searched fields, which convert numbers of the unit interval to values and back.

A suggestion is a point of the unit cube. The encoding guarantees that the low end of an interval is never above the
high end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Units = tuple[float, ...]


@runtime_checkable
class Range(Protocol):
    """A range whose values are encoded as `size` numbers in [0, 1]."""

    @property
    def size(self) -> int: ...
    def decode(self, units: Sequence[int | float]) -> Any: ...
    def encode(self, value: Any) -> Units | None:
        """Return the units of a value, or None for a value outside the range."""
        ...

    def grid(self, points: int) -> list[Any]:
        """Return at most `points` values (for an interval: pairs of ends), spread evenly over the range."""
        ...


@dataclass(frozen=True, kw_only=True)
class NumberRange:
    """Numbers from `low` to `high`, uniform or (`log`) log-uniform; `whole` numbers include both ends."""

    low: int | float
    high: int | float
    log: bool = False
    whole: bool = False
    size: int = 1

    def decode(self, units: Sequence[int | float]) -> float | int:
        if not self.whole:
            return self.value_at(units[0])
        low, high = int(self.low), int(self.high)
        return min(high, max(low, round(self.value_at(units[0]))))

    def encode(self, value: Any) -> Units | None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            return None
        return (self.unit_of(value),)

    def grid(self, points: int) -> list[Any]:
        values = (
            [self.decode((k / max(1, points - 1),)) for k in range(points)] if points > 1 else [self.decode((0.5,))]
        )
        return list(dict.fromkeys(values))

    def value_at(self, unit: int | float) -> int | float:
        if self.log:
            value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + unit * (self.high - self.low)
        return min(self.high, max(self.low, value))

    def unit_of(self, value: int | float) -> float:
        low, high, x = (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return min(1.0, max(0.0, (x - low) / ((high - low) or 1.0)))


@dataclass(frozen=True, kw_only=True)
class ChoiceRange:
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
class IntervalRange:
    """Pairs (low, high) within `ends`: the first unit encodes the low end, the second the width.

    The first unit is transformed so that uniform units fill the triangle low <= high evenly.
    """

    ends: NumberRange
    size: int = 2

    def decode(self, units: Sequence[int | float]) -> tuple[int | float, int | float]:
        low = 1.0 - math.sqrt(1.0 - min(1.0, max(0.0, units[0])))
        high = min(1.0, low + units[1] * (1.0 - low))
        a, b = self.ends.value_at(low), self.ends.value_at(high)
        return (min(a, b), max(a, b))

    def encode(self, value: Any) -> Units | None:
        if not isinstance(value, tuple | list) or len(value) != 2 or value[0] > value[1]:
            return None
        low_units, high_units = (self.ends.encode(end) for end in value)
        if low_units is None or high_units is None:
            return None
        low, high = low_units[0], high_units[0]
        return (1.0 - (1.0 - low) ** 2, (high - low) / (1.0 - low) if low < 1.0 else 0.0)

    def grid(self, points: int) -> list[Any]:
        ends = self.ends.grid(points)
        return [(a, b) for a in ends for b in ends if a <= b]
