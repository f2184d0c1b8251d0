"""Split the wall-clock time of a run into activities, from the lines of its metrics.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TimeSpent:
    """Seconds of a run by activity, from its first start to its last line of metrics.

    `other_s` is the time that no line accounts for: starting the cluster and the workers, indexing, the time between an
    interruption and the next start, and steps that were repeated after it.
    """

    first_batch_s: float  # from the start of each segment of the stream to its first batch
    waiting_s: float  # in the training loop, waiting for data
    step_s: float  # forward, backward, update
    checkpoint_s: float  # in the training loop, copying the tensors of checkpoints
    validation_s: float
    other_s: float

    @property
    def total_s(self) -> float:
        """The sum over all activities."""
        return sum(seconds for _, seconds in self.parts)

    @property
    def parts(self) -> list[tuple[str, float]]:
        """Each activity's name with its seconds, in the order of the page."""
        return [
            ("start-up and pauses", self.other_s),
            ("first batch", self.first_batch_s),
            ("waiting for data", self.waiting_s),
            ("training steps", self.step_s),
            ("checkpoints", self.checkpoint_s),
            ("validation", self.validation_s),
        ]


def time_spent(lines: Sequence[Mapping[str, Any]], created: str) -> TimeSpent | None:
    """Return the time of a run by activity; None where no line has the throughput and the row counts.

    `created` is the ISO time of the run's first start.
    """
    timed = [line for line in lines if line.get("samples_per_s") and "rows/planned" in line]
    if not timed:
        return None
    loop = waiting = previous_rows = 0.0
    for line in timed:
        rows = line["rows/planned"] + line.get("rows/padding", 0)
        seconds = max(0.0, rows - previous_rows) / line["samples_per_s"]
        loop, waiting = loop + seconds, waiting + seconds * line.get("data_wait_share", 0.0)
        previous_rows = rows
    first_batch = _total(lines, "first_batch_s")
    checkpoint, validation = _total(lines, "checkpoint_s"), _total(lines, "validation/seconds")
    step = max(0.0, loop - waiting - checkpoint)
    wall = _wall_seconds(lines, created, at_least=loop + first_batch)
    return TimeSpent(
        first_batch_s=first_batch,
        waiting_s=waiting,
        step_s=step,
        checkpoint_s=checkpoint,
        validation_s=validation,
        other_s=max(0.0, wall - first_batch - waiting - step - checkpoint - validation),
    )


def _total(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(line.get(name) or 0.0 for line in lines))


def _wall_seconds(lines: Sequence[Mapping[str, Any]], created: str, *, at_least: float) -> float:
    try:
        began = datetime.fromisoformat(created).timestamp()
    except ValueError:
        return at_least
    ended = max((line["time"] for line in lines if "time" in line), default=began)
    return max(at_least, ended - began)
