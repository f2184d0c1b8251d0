"""Memory of a sweep's driver with 200 trials to run, in a process of its own; started by `jobs.bench sweep`.

    python -m jobs.bench.queued_trials FOLDER ANSWER.json

The trials train nothing and end at once. The driver's memory is its private and shared pages together (RSS), measured
when the first trial has ended and whenever another one ends, and the processes that it has started are counted.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions

TRIALS, STEPS = 200, 4


@dataclass(frozen=True, kw_only=True)
class EmptyRun:
    """The configuration of a run that trains nothing."""

    TARGET: ClassVar[str] = "jobs.bench.queued_trials:report_only"
    run: RunOptions = field(default_factory=lambda: RunOptions(name="empty"))
    seed: int = 0
    optim: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(steps=STEPS, learning_rate=1e-3))
    logging: LoggingConfig = field(default_factory=lambda: LoggingConfig(log_every=1))
    checkpoints: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(checkpoint_every=STEPS))


def report_only(config: EmptyRun, send: Callable[[dict[str, Any]], None]) -> None:
    """Report a score after each step."""
    for step in range(1, STEPS + 1):
        score = -abs(config.optim.learning_rate - 1e-3) * step
        send({"kind": "report", "step": step, "steps": STEPS, "metrics": {"score": score}})


def resident_mib() -> float:
    """Return the memory of this process, in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def main() -> None:
    from jobs.bench.queued_trials import EmptyRun  # not that of __main__, which a trial's process cannot import
    from pipelines import sweep
    from pipelines.config.sweep import SweepConfig
    from xmodal.search.trial import FINISHED

    folder, answer = sys.argv[1:]
    sizes: list[float] = []
    started = time.perf_counter()

    def on_event(event: Any) -> None:
        if event["kind"] == "ended":
            sizes.append(resident_mib())

    result = sweep.run(
        SweepConfig(
            run=EmptyRun(), search=("optim.learning_rate=loguniform(1e-5,1e-1)",), metric=("score",), trials=TRIALS,
            scheduler="fifo", finalists=0, concurrent=2, sweep=RunOptions(name="queued", runs=folder),
        ),
        on_event,
    )  # fmt: skip
    record = {
        "first_mib": sizes[0], "largest_mib": max(sizes), "last_mib": sizes[-1],
        "seconds": time.perf_counter() - started,
        "finished": sum(trial.status == FINISHED for trial in result.trials), "trials": len(result.trials),
    }  # fmt: skip
    Path(answer).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
