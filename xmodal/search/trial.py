"""One trial of a search as plain values: its configuration, its reports and its status."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from xmodal.search.ranges import Units

BASELINE, SEARCH, CLONE, FINALIST = "baseline", "search", "clone", "finalist"
WAITING, RUNNING, PAUSED = "waiting", "running", "paused"
FINISHED, STOPPED, REJECTED, FAILED = "finished", "stopped", "rejected", "failed"
OVER = (FINISHED, STOPPED, REJECTED, FAILED)
ORACLE = "oracle/"


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """The metrics of a trial after `step` of its `steps`; `seconds` is the time spent in all its attempts."""

    step: int
    steps: int
    seconds: int | float
    metrics: Mapping[str, int | float]

    @property
    def share(self) -> float:
        """Return the share of the trial's full budget, in [0, 1]."""
        return self.step / max(1, self.steps)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial: `values` by dotted field, and `units`, their position in the space (a baseline may be outside)."""

    number: int
    kind: str
    values: Mapping[str, Any]
    units: Units | None = None
    seed: int = 0
    status: str = WAITING  # one of the names above
    why: str = ""  # the reason why it was stopped, rejected or failed
    attempts: int = 0
    errors: tuple[str, ...] = ()
    parent: int | None = (
        None  # for a clone the trial whose weights it started with, for a finalist the trial it repeats
    )
    parent_step: int = 0
    paused_at: int = 0  # the step of the last boundary at which it waited for the others of its population
    reports: tuple[TrialReport, ...] = field(default=())
    seconds: int | float = 0.0  # at work, over all attempts
    started: int | float = 0.0  # seconds since 1970, of the first attempt
    ready: int | float = 0.0  # seconds from the start of the last attempt to its first step
    oracle: Mapping[str, int | float] = field(default_factory=dict)  # stored separately: no decision uses it
    asked: int = 0  # order among all draws and ends of trials, from 1, in which its point was drawn; 0: unknown
    ended: int = 0  # order in which it ended; 0: unknown, or not yet

    @property
    def name(self) -> str:
        return f"trial-{self.number:03d}"

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def share(self) -> float:
        return self.reports[-1].share if self.reports else 0.0

    def last(self, metric: str) -> int | float | None:
        """Return the newest value of a metric."""
        return next((r.metrics[metric] for r in reversed(self.reports) if metric in r.metrics), None)

    def metric_at_share(self, metric: str, share: int | float) -> int | float | None:
        """Return the first value of a metric at or after that share of the budget."""
        return next((r.metrics[metric] for r in self.reports if r.share >= share - 1e-9 and metric in r.metrics), None)

    def to_plain(self) -> dict[str, Any]:
        """Return the trial as plain values for JSON."""
        return asdict(self)


def trial_from_plain(plain: Mapping[str, Any]) -> Trial:
    """Return the trial of which `to_plain` returned `plain`."""
    reports = tuple(TrialReport(**report) for report in plain["reports"])
    units = plain["units"] and tuple(plain["units"])
    values = {name: _value(value) for name, value in plain["values"].items()}
    return Trial(**{**plain, "reports": reports, "units": units, "values": values, "errors": tuple(plain["errors"])})


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
