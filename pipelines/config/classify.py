"""A run of the second stage: where, on what, which classifier, how the losses are balanced."""

from dataclasses import dataclass, field

from pipelines.config.classifier import Classifier
from pipelines.config.data import Data
from pipelines.config.domain import Domain
from pipelines.config.logging import Cadence
from pipelines.config.optimizer import Optim
from pipelines.config.resources import Resources
from pipelines.config.target import Unlabelled
from xmodal.data.decode.augment import Augment
from xmodal.errors import ConfigError
from xmodal.training.balance_options import Balance


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run that trains a classifier of audio-video clips."""

    data: Data  # with labels: the source, where there is a target
    model: Classifier
    name: str  # the run's directory in `runs`, and what --resume finds it by
    runs: str = "runs"  # URI of the directory of runs
    resume: bool = False  # continue the run of this name; without it an existing one is refused
    seed: int = 0  # of the weights and of the order of rows
    balance: Balance = field(default_factory=Balance)
    target: Unlabelled = field(default_factory=Unlabelled)
    domain: Domain = field(default_factory=Domain)  # with a target
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    cadence: Cadence = field(default_factory=Cadence)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} must lie in [0, 2**63)")
        if not self.target.corpus and self.domain != Domain():
            raise ConfigError(
                "flags of --domain without a target: name clips of the other domain with --target CORPUS, or leave "
                "the flags out"
            )
        self.domain.check_without_bank()
