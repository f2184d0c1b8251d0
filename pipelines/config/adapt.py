"""A run that adapts a dual encoder: from what, from which source to which target, and how."""

from dataclasses import dataclass, field
from typing import Literal

from pipelines.config.data import Data
from pipelines.config.domain import Domain
from pipelines.config.label_head import Label
from pipelines.config.logging import Cadence
from pipelines.config.optimizer import Optim
from pipelines.config.resources import Resources
from pipelines.config.target import Target
from pipelines.config.target_validation import TargetValidation
from pipelines.config.validation import Validation
from xmodal.data.decode.augment import Augment
from xmodal.errors import ConfigError
from xmodal.training.balance_options import Balance

PLAIN = Balance(method="uniform")  # all losses added up


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run that adapts a dual encoder to a domain without pairs."""

    data: Data  # the source: pairs
    target: Target
    start_from: str  # a run of jobs.pretrain, one of its checkpoints, or a dual encoder's directory or name on the Hub
    name: str  # the run's directory in `runs`, and what --resume finds it by
    runs: str = "runs"  # URI of the directory of runs
    resume: bool = False  # continue the run of this name; without it an existing one is refused
    seed: int = 0  # of the order of rows, the critics, augmentation and dropout
    objective: Literal["info_nce", "sigmoid"] | None = None  # of the pairs; None: that of the checkpoint
    mask_duplicates: bool = True  # pairs with the same picture or caption are no negatives of each other
    label: Label = field(default_factory=Label)
    balance: Balance = PLAIN  # of the contrastive loss and each encoder's own, at the embeddings
    domain: Domain = field(default_factory=Domain)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    cadence: Cadence = field(default_factory=Cadence)
    validation: Validation = field(default_factory=Validation)  # on pairs of the source
    target_validation: TargetValidation = field(default_factory=TargetValidation)
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} must lie in [0, 2**63)")
        if not self.start_from:
            raise ConfigError("nothing to start from: name a run of jobs.pretrain, e.g. --start-from runs/vit-tiny")
        if self.balance.method == "joint" or self.balance.space != "features" or self.balance.audit_every:
            raise ConfigError(
                "a dual encoder's objectives are weighed at its embeddings: leave --space and --audit-every out, and "
                "take another --method than joint (what is not to be learned need not be asked for)"
            )
        if self.balance != PLAIN and self.label.field is None and not self.target.consistency:
            raise ConfigError(
                f"method={self.balance.method} has nothing to balance: the encoders have no objective of their own; "
                "add --label.field or --target.consistency"
            )

    @property
    def weighed(self) -> bool:
        """Whether the gradients of both objectives of an encoder are looked at where they meet."""
        return self.label.field is not None or self.balance != PLAIN
