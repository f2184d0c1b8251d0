"""Configuration of a pretraining run: which data, which model, how long, on how many workers."""

from dataclasses import dataclass, field

from pipelines.config.architectures import default_of
from pipelines.config.data import DataConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.model import LossConfig, ModelConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.config.seed import check_seed
from pipelines.config.validation import ValidationConfig
from xmodal.data.decode.augment import Augment


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A run that trains a dual encoder on pairs."""

    data: DataConfig
    run: RunOptions
    seed: int = 0  # seed of the order of rows, the initial weights, augmentation and dropout
    model: ModelConfig = field(default_factory=lambda: default_of("vit-tiny"))
    loss: LossConfig = field(default_factory=LossConfig)
    augment: Augment = field(default_factory=Augment)
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)
