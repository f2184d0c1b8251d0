"""The results of an experiment's trials by arm, and statistics over their seeds."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

TrialResult = Mapping[str, Any]  # plain values, as results.json holds them
Trials = Mapping[str, Sequence[TrialResult]]  # by arm, one result a seed


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation, which is 0 for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 for fewer than two values."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
