"""The events of a run, which its driver passes to whoever started it: one frozen dataclass for each kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xmodal.callbacks import Notify


@dataclass(frozen=True, kw_only=True)
class Notification:
    """A sentence for a person."""

    text: str


@dataclass(frozen=True, kw_only=True)
class IndexProgress:
    """Shards of a corpus are being indexed: `done` of `total`."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """The run is planned, and its workers are about to start."""

    run: str  # URI of its directory
    rows: int  # of all its streams in one epoch
    steps: int
    steps_per_epoch: int
    parameters: int
    checkpoint_step: int | None  # of the newest checkpoint; None where it has none


@dataclass(frozen=True, kw_only=True)
class WorkerGroupStart:
    """A worker group has started: the first one, or another one after a failure."""

    step: int  # that it continues from
    steps: int
    workers: int
    node: str  # id of the node of rank 0
    checkpoint: str | None  # name of the checkpoint that it continues from


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The metrics of a step were logged."""

    step: int
    steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ValidationMetrics:
    """The model was evaluated on held-out rows after a step; names of metrics begin with `validation/`."""

    step: int
    steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class UnrecoverableError:
    """All ranks stopped by an error that a restart would only repeat."""

    error: str  # name of its class in xmodal.errors
    message: str


Event = (
    Notification | IndexProgress | RunStart | WorkerGroupStart | StepMetrics | ValidationMetrics | UnrecoverableError
)
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event."""


def notifier(on_event: OnEvent) -> Notify:
    """Return a function that reports a sentence as a `Notification`."""
    return lambda text: on_event(Notification(text=text))
