"""The domain losses of a model: one at each alignment point, all with the strength of the current step.

An alignment point is a set of features at which the two domains are made alike: those of one modality, or the joint
features of all. An objective passes the rows of both domains at each point, adds the results to its own losses, and
leaves the extra updates of the critics, their learning rate and their metrics to this module.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.training.objectives.domain import DomainFeatures, DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule

LN_2 = 0.6931471805599453  # the loss of a critic that guesses


class AlignmentPoints(nn.ModuleDict):
    """Domain losses by the name of their alignment point, weighted by a schedule of the strength.

    The learning rate of the critics is `critic_lr_scale` times that of the encoders. With `critic_steps` > 1 the
    critics are updated again after each step, on the features of that step as constants.
    """

    def __init__(
        self,
        losses: Mapping[str, DomainLoss],
        strength: StrengthSchedule,
        *,
        critic_steps: int = 1,
        critic_lr_scale: float = 1.0,
    ) -> None:
        super().__init__(dict(losses))
        self.schedule, self.critic_steps, self.critic_lr_scale = strength, critic_steps, critic_lr_scale
        self.strength = strength(0)
        self.shares: dict[str, Tensor] = {}  # metrics of this rank whose sum over ranks is world size * global mean
        self._global_metrics: dict[str, Tensor] = {}  # metrics that are the same on all ranks already

    def set_step(self, step: int) -> None:
        """Set the strength to that of `step`."""
        self.strength = self.schedule(step)

    def forward(self, features: Mapping[str, DomainFeatures]) -> dict[str, Float[Tensor, ""]]:
        """Compute this rank's share of the loss at each point; `features` has those of every point."""
        self.shares, self._global_metrics, losses = {}, {}, {}
        for point, loss in self.items():
            losses[point], metrics = loss(features[point], self.strength)
            self.shares[f"domain/{point}/loss"] = metrics.pop("loss")
            self._global_metrics |= {f"domain/{point}/{name}": x for name, x in metrics.items()}
        return losses

    def loss_parameters(self, prefix: str) -> dict[str, nn.Parameter]:
        """Return the critics' trainable parameters, with the names that they have in a parent module."""
        return {f"{prefix}.{name}": p for name, p in self.named_parameters() if p.requires_grad}

    def extra_critic_losses(self) -> Iterator[Float[Tensor, ""]]:
        """Yield the sum of the critics' losses `critic_steps` - 1 times."""
        for _ in range(self.critic_steps - 1):
            losses = [loss for point in self.domain_losses() if (loss := point.recompute()) is not None]
            if losses:
                yield torch.stack(losses).sum()

    def domain_losses(self) -> Iterator[DomainLoss]:
        """Iterate over the domain losses in the order of their alignment points."""
        return (loss for loss in self.values() if isinstance(loss, DomainLoss))

    def metrics(self, means: Mapping[str, Tensor], device: torch.device) -> dict[str, Float[Tensor, ""]]:
        """Return the accuracy of each critic, its loss in units of ln 2, and the strength.

        `means` are the means of `shares` over all ranks.
        """
        values = dict(self._global_metrics)
        for point in self:
            if f"domain/{point}/accuracy" in self._global_metrics:
                values[f"domain/{point}/loss_per_ln2"] = means[f"domain/{point}/loss"] / LN_2
        return values | {"domain/strength": torch.tensor(self.strength, dtype=torch.float64, device=device)}
