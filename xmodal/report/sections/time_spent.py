"""The lines of metrics.jsonl in, seconds spent on each part of a run out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of a run, from its first start to its last line of metrics.

    `other_s` is what no line accounts for: starting the cluster and the workers, indexing, the time between a death
    and the next start, and work that came again after one.
    """

    first_batch_s: float  # starting the stream of each segment, until its first batch came
    waiting_s: float  # in the loop, for data
    step_s: float  # forward, backward, update
    checkpoint_s: float  # in the loop, for the copy of a checkpoint's tensors
    validation_s: float
    other_s: float

    @property
    def total_s(self) -> float:
        return sum(seconds for _, seconds in self.parts)

    @property
    def parts(self) -> list[tuple[str, float]]:
        return [
            ("start-up and pauses", self.other_s),
            ("first batch", self.first_batch_s),
            ("waiting for data", self.waiting_s),
            ("training steps", self.step_s),
            ("checkpoints", self.checkpoint_s),
            ("validation", self.validation_s),
        ]


def spent(lines: Sequence[Mapping[str, Any]], created: str) -> Spent | None:
    """None where the lines do not say how fast the run was; `created` is the ISO time of the run's first start."""
    timed = [line for line in lines if line.get("samples_per_s") and "rows/planned" in line]
    if not timed:
        return None
    loop = waiting = before = 0.0
    for line in timed:
        rows = line["rows/planned"] + line.get("rows/padding", 0)
        window = max(0.0, rows - before) / line["samples_per_s"]
        loop, waiting, before = loop + window, waiting + window * line.get("data_wait_share", 0.0), rows
    first = _sum(lines, "first_batch_s")
    checkpoint, validation = _sum(lines, "checkpoint_s"), _sum(lines, "validation/seconds")
    step = max(0.0, loop - waiting - checkpoint)
    wall = _wall(lines, created, loop + first)
    return Spent(
        first_batch_s=first,
        waiting_s=waiting,
        step_s=step,
        checkpoint_s=checkpoint,
        validation_s=validation,
        other_s=max(0.0, wall - first - waiting - step - checkpoint - validation),
    )


def _sum(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(line.get(name) or 0.0 for line in lines))


def _wall(lines: Sequence[Mapping[str, Any]], created: str, least: float) -> float:
    try:
        began = datetime.fromisoformat(created).timestamp()
    except ValueError:
        return least
    ended = max((line["time"] for line in lines if "time" in line), default=began)
    return max(least, ended - began)
