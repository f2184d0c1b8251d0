"""Configuration of a run that adapts a dual encoder: from which model, from which source to which target, and how."""

from dataclasses import dataclass, field

from pipelines.config.data import DataConfig
from pipelines.config.domain import DomainConfig
from pipelines.config.label_head import LabelHeadConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.model import check_objective
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.config.seed import check_seed
from pipelines.config.target import TargetConfig
from pipelines.config.target_validation import TargetValidationConfig
from pipelines.config.validation import ValidationConfig
from xmodal.data.decode.augment import Augment
from xmodal.errors import ConfigError
from xmodal.training.balance_options import GradientBalance

SUM = GradientBalance(method="uniform")  # the gradients of all losses are added


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """A run that adapts a dual encoder to a target domain without pairs."""

    data: DataConfig  # The pairs of the source domain.
    target: TargetConfig
    start_from: str
    """model to adapt: a run of jobs.pretrain, one of its checkpoints, or a dual encoder's
    directory or Hugging Face Hub name"""
    run: RunOptions
    seed: int = 0  # seed of the order of rows, the weights of domain critics, augmentation and dropout
    objective: str | None = None
    """contrastive loss on the pairs of the source: info_nce, sigmoid or one that a plugin
    adds; None: the one of the checkpoint"""
    mask_duplicates: bool = True  # pairs with equal images or equal captions are no negatives of each other
    label: LabelHeadConfig = field(default_factory=LabelHeadConfig)
    balance: GradientBalance = SUM
    """How the gradients of the contrastive loss and of each encoder's own losses are combined, at the embeddings."""
    domain: DomainConfig = field(default_factory=DomainConfig)
    augment: Augment = field(default_factory=Augment)
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Retrieval on held-out pairs of the source during training."""
    target_validation: TargetValidationConfig = field(default_factory=TargetValidationConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)

    def __post_init__(self) -> None:
        if self.objective is not None:
            check_objective(self.objective)
        check_seed(self.seed)
        if not self.start_from:
            raise ConfigError("nothing to start from: name a run of jobs.pretrain, e.g. --start-from runs/vit-tiny")
        if self.balance.method == "joint" or self.balance.space != "features" or self.balance.audit_every:
            raise ConfigError(
                "the gradients of a dual encoder are combined at its embeddings: leave --space and --audit-every out, "
                "and take another --method than joint (to train without further losses, leave --label and "
                "--target.consistency out)"
            )
        if self.balance != SUM and self.label.field is None and not self.target.consistency:
            raise ConfigError(
                f"method={self.balance.method} has nothing to combine: the encoders have no loss of their own; "
                "add --label.field or --target.consistency"
            )

    @property
    def combines_gradients(self) -> bool:
        """Whether the gradients of several losses are combined by --method at the embeddings of an encoder."""
        return self.label.field is not None or self.balance != SUM
