"""Averages metrics that a single step cannot show over the steps between two lines of the log."""

from collections import defaultdict
from collections.abc import Mapping


class MetricAverager:
    """Averages gradient conflicts and audits over the steps since the last call of `pop_means`.

    ENCODER/conflict_share is the share of steps with a conflict; audit/... are means over the audits (for `same_sign`
    the share of audits in which both spaces agree about a conflict). The averages are not part of a checkpoint: the
    first line after a restart covers the steps since the restart.

    >>> averager = MetricAverager()
    >>> for conflict in (1.0, 0.0, 0.0, 1.0):
    ...     averager.add({"loss": 0.1, "image/conflict": conflict})
    >>> averager.pop_means()
    {'image/conflict_share': 0.5}
    """

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the metrics of one step."""
        for name, value in metrics.items():
            if name.endswith("/conflict"):
                self._values[f"{name}_share"].append(value)
            elif name.startswith("audit/"):
                self._values[name].append(value)

    def pop_means(self) -> dict[str, float]:
        """Return the means and start over."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values.clear()
        return means
