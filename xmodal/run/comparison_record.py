"""Parse what `jobs.compare` stored of an adaptation: the metrics of every arm on the source and on the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

SOURCE, TARGET = "source", "oracle"  # what the metrics of each domain begin with: pairs of the target are an oracle
ARM_LABELS = {
    "before": "before",
    "control": "further steps without the target",
    "centred": "the same, embeddings centred",
    "adapted": "adapted",
    "oracle": "trained on pairs of the target",
}


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One run of an arm: the checkpoint that was evaluated, and its metrics on both domains."""

    checkpoint: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """The content of one file of RUN/comparisons; the runs of an arm are its seeds."""

    adaptation: str  # what the adapted runs did, in words
    source: str
    target: str
    rows: Mapping[str, int]  # by SOURCE and TARGET; empty in records of earlier versions, as is `chance`
    chance: Mapping[str, float]
    arms: Mapping[str, tuple[ArmRun, ...]]

    def mean_sd(self, arm: str, name: str) -> tuple[float, float | None] | None:
        """Return mean and standard deviation of a metric over the runs of an arm.

        The deviation is None for a single run; the result is None where some run lacks the metric.
        """
        runs = self.arms.get(arm, ())
        values = [run.metrics[name] for run in runs if name in run.metrics]
        if not values or len(values) < len(runs):
            return None
        return mean(values), stdev(values) if len(values) > 1 else None


def parse_comparison(content: Mapping[str, Any]) -> ComparisonRecord:
    """Parse a decoded JSON file; ValueError, KeyError, TypeError or AttributeError for one of another form."""
    return ComparisonRecord(
        adaptation=str(content["adaptation"]),
        source=str(content["source"]),
        target=str(content["target"]),
        rows={name: int(value) for name, value in content.get("rows", {}).items()},
        chance={name: float(value) for name, value in content.get("chance", {}).items()},
        arms={arm: _arm_runs(runs) for arm, runs in content["arms"].items()},
    )


def _arm_runs(runs: Sequence[Mapping[str, Any]]) -> tuple[ArmRun, ...]:
    return tuple(
        ArmRun(
            checkpoint=str(run["checkpoint"]),
            step=int(run["step"]),
            metrics={name: float(value) for name, value in run["metrics"].items()},
        )
        for run in runs
    )
