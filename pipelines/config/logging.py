"""How often a run logs its metrics and saves checkpoints."""

from dataclasses import dataclass

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """How often metrics are logged, and where to."""

    log_every: int = 20  # number of steps between two lines of metrics
    sinks: tuple[str, ...] = ("tensorboard",)  # where metrics go beside metrics.jsonl: tensorboard, wandb, mlflow

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise ConfigError("log_every must be at least 1 step")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often checkpoints are saved, how many are kept, and how many failures a run survives by them."""

    checkpoint_every: int = 500  # steps between two checkpoints; one more at the end and before a preemption
    keep: int = 3  # number of newest checkpoints that are kept, at least 2; older ones are deleted
    restarts: int = 3
    """how often workers that fail are started again from the newest checkpoint; preemptions do not count"""

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise ConfigError("checkpoint_every must be at least 1 step")
        if self.keep < 2:
            raise ConfigError(f"keep={self.keep}: keep at least 2, since the newest may be damaged by what comes next")
        if self.restarts < 0:
            raise ConfigError(f"restarts={self.restarts} must not be negative")
