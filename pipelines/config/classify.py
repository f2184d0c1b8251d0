"""Configuration of a run that trains a multimodal classifier: on which data, which model, how the losses are
balanced."""

from dataclasses import dataclass, field

from pipelines.config.classifier import ClassifierConfig
from pipelines.config.data import DataConfig, check_fields
from pipelines.config.domain import DomainConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.config.seed import check_seed
from pipelines.config.target import UnlabelledTargetConfig
from xmodal.data.decode.augment import Augment
from xmodal.errors import ConfigError
from xmodal.training.balance_options import GradientBalance


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """A run that trains a classifier of audio-video clips."""

    data: DataConfig  # The labelled rows; with a target they are the source domain.
    model: ClassifierConfig
    run: RunOptions
    seed: int = 0  # seed of the initial weights and of the order of rows
    balance: GradientBalance = field(default_factory=GradientBalance)
    """How the gradients of the multimodal and the unimodal losses are combined in each encoder."""
    target: UnlabelledTargetConfig = field(default_factory=UnlabelledTargetConfig)
    domain: DomainConfig = field(default_factory=DomainConfig)
    """The loss that makes the features of both domains alike; used where there is a target."""
    augment: Augment = field(default_factory=Augment)
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_fields(self.target.fields, self.model.modalities)
        if not self.target.corpus and self.domain != DomainConfig():
            raise ConfigError(
                "flags of --domain without a target: name clips of the other domain with --target CORPUS, or leave "
                "the flags out"
            )
        self.domain.check_without_bank()
