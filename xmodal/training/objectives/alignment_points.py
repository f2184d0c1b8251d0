"""Where two domains meet: a domain loss at each place, all at the strength of the step; the losses by place out.

Whatever a stage minimises besides, it shows the same place the rows of both domains, adds what comes out to its own
losses, and leaves the critics' further updates, their rate and their figures to this module.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.training.objectives.domain import DomainLoss, Domains
from xmodal.training.objectives.domain_strength import Strength

LN_2 = 0.6931471805599453  # the loss of a critic that knows nothing


class Places(nn.ModuleDict):
    """`losses` by the name of their place. Critics learn at `critic_gain` times the learning rate of the encoders.

    With `critic_steps` > 1 they are updated again after each step, on that step's rows as constants.
    """

    def __init__(
        self,
        losses: Mapping[str, DomainLoss],
        strength: Strength,
        *,
        critic_steps: int = 1,
        critic_gain: float = 1.0,
    ) -> None:
        super().__init__(dict(losses))
        self.strength_of, self.critic_steps, self.critic_gain = strength, critic_steps, critic_gain
        self.strength = strength(0)
        self.shares: dict[str, Tensor] = {}  # figures of this rank that add up to W x the global mean
        self._alike: dict[str, Tensor] = {}  # figures that are the same on all ranks already

    def at(self, step: int) -> None:
        """Take the strength of this step."""
        self.strength = self.strength_of(step)

    def forward(self, rows: Mapping[str, Domains]) -> dict[str, Float[Tensor, ""]]:
        """This rank's share of each place's loss; `rows` has those of every place."""
        self.shares, self._alike, found = {}, {}, {}
        for place, loss in self.items():
            found[place], figures = loss(rows[place], self.strength)
            self.shares[f"domain/{place}/loss"] = figures.pop("loss")
            self._alike |= {f"domain/{place}/{name}": x for name, x in figures.items()}
        return found

    def weights(self, prefix: str) -> dict[str, nn.Parameter]:
        """The critics' parameters, which the losses read themselves, by the names that a parent gives them."""
        return {f"{prefix}.{name}": p for name, p in self.named_parameters() if p.requires_grad}

    def afterwards(self) -> Iterator[Float[Tensor, ""]]:
        """The critics' losses, once for every step that they are to be ahead."""
        for _ in range(self.critic_steps - 1):
            found = [loss for place in self.values() if (loss := place.again()) is not None]  # type: ignore[operator]
            if found:
                yield torch.stack(found).sum()

    def figures(self, means: Mapping[str, Tensor], device: torch.device) -> dict[str, Float[Tensor, ""]]:
        """What a critic knows, beside ln 2, and the strength; `means` are the `shares` over all ranks."""
        found = dict(self._alike)
        for place in self:
            if f"domain/{place}/accuracy" in self._alike:
                found[f"domain/{place}/loss_per_ln2"] = means[f"domain/{place}/loss"] / LN_2
        return found | {"domain/strength": torch.tensor(self.strength, dtype=torch.float64, device=device)}
