"""A measured number with its target, and the JSON line with all that is needed to measure it again."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number and whether it reaches its target.

    `target` is None for a number that is only recorded. `spread` is half the range between the quartiles of the
    `repeats` measurements behind `value`, in `unit`.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    lower_is_better: bool = False
    repeats: int = 1
    spread: float | None = None
    detail: Mapping[str, object] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the target is reached; NaN never reaches it, a number without a target always does."""
        if self.target is None:
            return True
        return self.value <= self.target if self.lower_is_better else self.value >= self.target

    def to_json(self, provenance: Mapping[str, Any]) -> str:
        """Return one line with the number, its provenance (where and how it was measured), and the details."""
        return json.dumps(
            {
                "name": self.name,
                "value": _round_to_5_digits(self.value),
                "unit": self.unit,
                "reach": self.target,
                "ok": self.ok,
                **provenance,
                "repeats": self.repeats,
                "spread": _round_to_5_digits(self.spread),
                "detail": {**self.detail, "better": "lower" if self.lower_is_better else "higher"},
            }
        )


def median_measurement(samples: Sequence[float], **fields: Any) -> Measurement:
    """Return the median of repeated measurements, with their number and spread; `fields` are those of `Measurement`."""
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else None
    spread = (quartiles[2] - quartiles[0]) / 2 if quartiles else None
    return Measurement(value=statistics.median(samples), repeats=len(samples), spread=spread, **fields)


def _round_to_5_digits(value: float | None) -> float | None:
    """Return five significant digits, as no benchmark here is more exact; None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
