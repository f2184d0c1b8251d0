"""The figures of every step in, what a line of the log says about all steps since the one before out."""

from collections import defaultdict
from collections.abc import Mapping


class Window:
    """Collects what single steps cannot tell: how often encoders were in conflict, and every audit since.

    Adds ENCODER/conflict_share, the share of steps with a conflict; audit/... become means over the window's audits
    (of `same_sign` this is the share of audits on which both spaces agree about a conflict). A window is no part of a
    checkpoint: the first line after a restart tells of the steps since.
    """

    def __init__(self) -> None:
        self._seen: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, metrics: Mapping[str, float]) -> None:
        """The metrics of one step."""
        for name, value in metrics.items():
            if name.endswith("/conflict"):
                self._seen[f"{name}_share"].append(value)
            elif name.startswith("audit/"):
                self._seen[name].append(value)

    def take(self) -> dict[str, float]:
        """The means, after which a new window begins."""
        means = {name: sum(values) / len(values) for name, values in self._seen.items()}
        self._seen.clear()
        return means
