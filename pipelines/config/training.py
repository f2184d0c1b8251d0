"""What the configurations of all training stages have in common."""

from typing import Protocol

from pipelines.config.data import DataConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions


class TrainingConfig(Protocol):
    """A run that trains: PretrainConfig, AdaptConfig or ClassifyConfig."""

    @property
    def run(self) -> RunOptions: ...

    @property
    def data(self) -> DataConfig: ...

    @property
    def seed(self) -> int: ...

    @property
    def optim(self) -> OptimizerConfig: ...

    @property
    def logging(self) -> LoggingConfig: ...

    @property
    def checkpoints(self) -> CheckpointConfig: ...

    @property
    def resources(self) -> ResourceConfig: ...
