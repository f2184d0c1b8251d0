"""A pretraining run: where, on what, which model, how long, on how many workers."""

from dataclasses import dataclass, field

from pipelines.config.data import Data
from pipelines.config.logging import Cadence
from pipelines.config.model import Loss, Model
from pipelines.config.optimizer import Optim
from pipelines.config.resources import Resources
from pipelines.config.validation import Validation
from xmodal.data.decode.augment import Augment
from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """A pretraining run."""

    data: Data
    name: str  # the run's directory in `runs`, and what --resume finds it by
    runs: str = "runs"  # URI of the directory of runs
    resume: bool = False  # continue the run of this name; without it an existing one is refused
    seed: int = 0  # of the order of rows, the first weights, augmentation and dropout
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    cadence: Cadence = field(default_factory=Cadence)
    validation: Validation = field(default_factory=Validation)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} must lie in [0, 2**63)")
