"""A measured number with its target goes in; one JSON line with all that is needed to measure it again comes out."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number and whether it reaches its target.

    `reach` is the target, None for a number that is only recorded; `at_most` says that smaller is better. `spread` is
    half the range between the quartiles of the `repeats` measurements behind `value`, in `unit`.
    """

    name: str
    value: float
    unit: str
    reach: float | None = None
    at_most: bool = False
    repeats: int = 1
    spread: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the target is reached; NaN never is, a figure without a target always is."""
        if self.reach is None:
            return True
        return self.value <= self.reach if self.at_most else self.value >= self.reach

    def to_json(self, provenance: Mapping[str, Any]) -> str:
        """One line: the figure, where and how it was measured (`provenance`), and the details."""
        return json.dumps(
            {
                "name": self.name,
                "value": _rounded(self.value),
                "unit": self.unit,
                "reach": self.reach,
                "ok": self.ok,
                **provenance,
                "repeats": self.repeats,
                "spread": _rounded(self.spread),
                "detail": {**self.detail, "better": "lower" if self.at_most else "higher"},
            }
        )


def median_figure(samples: Sequence[float], **figure: Any) -> Figure:
    """The median of repeated measurements, with their number and spread; the other arguments are `Figure`'s."""
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else None
    spread = (quartiles[2] - quartiles[0]) / 2 if quartiles else None
    return Figure(value=statistics.median(samples), repeats=len(samples), spread=spread, **figure)


def _rounded(value: float | None) -> float | None:
    """Five significant digits: no benchmark here is more exact than that. None for what JSON has no number for."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
