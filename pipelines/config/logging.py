"""How often a run speaks and saves."""

from dataclasses import dataclass

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """How often a run speaks and saves."""

    log_every: int = 20  # steps
    checkpoint_every: int = 500  # steps; also at the end and on a preemption notice
    keep: int = 3  # newest checkpoints kept
    restarts: int = 3  # worker failures survived without asking; preemptions do not count
    sinks: tuple[str, ...] = ("tensorboard",)  # also: wandb, mlflow

    def __post_init__(self) -> None:
        if min(self.log_every, self.checkpoint_every) < 1:
            raise ConfigError("log_every and checkpoint_every must be at least 1 step")
        if self.keep < 2:
            raise ConfigError(f"keep={self.keep}: keep at least 2, since the newest may be damaged by what comes next")
        if self.restarts < 0:
            raise ConfigError(f"restarts={self.restarts} must not be negative")
