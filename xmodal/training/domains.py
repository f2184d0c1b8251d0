"""Embeddings of two domains in, a loss whose descent makes them alike out: by a critic, a discrepancy or sure answers.

A *place* is where the domains meet: the embeddings of one modality, or those of both as points of one space. Every
place has a loss of its own, and a critic of its own where the method needs one.

S, T: rows of the source and of the target on this rank.  D: width.  K: captions of the bank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.errors import ConfigError, nearest
from xmodal.losses.conditional import Conditioning, assignments, certainty
from xmodal.losses.confusion import bnm, mcc
from xmodal.losses.critic import HIDDEN, Critic, adversarial, critic_accuracy, gradient_penalty
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.ranks import Group
from xmodal.losses.reversal import reverse
from xmodal.training.domain_methods import METHODS, WITH_BANK, WITH_CRITIC

DISCREPANCIES = {"mmd": mmd, "coral": coral}
CONFUSIONS = {"mcc": mcc, "bnm": bnm}
TEMPERATURE = 0.1  # of cosines with the bank


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The embeddings of one place; rows that are not valid count for nothing. `bank`: unit rows, constants."""

    source: Float[Tensor, "S D"]
    target: Float[Tensor, "T D"]
    valid_source: Bool[Tensor, "S"]
    valid_target: Bool[Tensor, "T"]
    bank: Float[Tensor, "K D"] | None = None

    @property
    def both(self) -> Float[Tensor, "N D"]:
        return torch.cat([self.source, self.target])

    @property
    def valid(self) -> tuple[Bool[Tensor, "S"], Bool[Tensor, "T"]]:
        return self.valid_source, self.valid_target

    @property
    def constant(self) -> "Domains":
        """The same without a graph."""
        return replace(self, source=self.source.detach(), target=self.target.detach())


class DomainLoss(nn.Module):
    """One method at one place. The strength multiplies what reaches the encoders, never a critic's own training.

    `bank_size` is K, for the methods that read one. ConfigError for a method that is not known, or without its bank.
    """

    def __init__(
        self,
        method: str,
        dim: int,
        *,
        hidden: Sequence[int] = HIDDEN,
        spectral: bool = False,
        smoothing: float = 0.0,
        penalty: float = 0.0,
        bank_size: int = 0,
        temperature: float = TEMPERATURE,
        group: Group = None,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ConfigError(f"unknown domain.loss {method!r}; {nearest(method, (*METHODS, 'none'))}")
        if method in WITH_BANK and bank_size < 2:
            raise ConfigError(f"domain.loss={method} reads probabilities of captions: it needs a bank of at least 2")
        self.method, self.smoothing, self.penalty, self.group = method, smoothing, penalty, group
        self.temperature = temperature
        self.conditioning = Conditioning(dim, bank_size) if method == "cdan" else None
        width = dim if self.conditioning is None else self.conditioning.width
        self.critic = Critic(width, hidden, spectral=spectral) if method in WITH_CRITIC else None
        self._seen: Domains | None = None

    def forward(self, rows: Domains, strength: float) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """This rank's share of what is minimised, and further figures: `loss` as a share, `accuracy` of all ranks."""
        if self.critic is None:
            loss = self._without_critic(rows)
            return strength * loss, {"loss": loss.detach()}
        self._seen = rows.constant
        loss, logits = self._with_critic(rows, strength)
        accuracy = critic_accuracy(*logits, *rows.valid, group=self.group)
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    def again(self) -> Float[Tensor, ""] | None:
        """The critic's loss once more on the rows of the last forward, as constants; None without a critic."""
        return None if self._seen is None else self._with_critic(self._seen, 0.0)[0]

    def _with_critic(self, rows: Domains, strength: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert self.critic is not None
        features, weights = reverse(rows.both, strength), {}
        sizes = [len(rows.source), len(rows.target)]
        if self.conditioning is not None:
            assert rows.bank is not None
            known = assignments(rows.both.detach(), rows.bank, self.temperature)
            features = self.conditioning(features, known)
            weights = dict(zip(("weight_source", "weight_target"), certainty(known).split(sizes), strict=True))
        source, target = self.critic(features).split(sizes)
        loss = adversarial(source, target, *rows.valid, **weights, smoothing=self.smoothing, group=self.group)
        if self.penalty:
            first, second = features.split(sizes)
            slope = gradient_penalty(self.critic, first, second, *rows.valid, group=self.group)
            loss = loss + self.penalty * slope
        return loss, (source, target)

    def _without_critic(self, rows: Domains) -> Tensor:
        if self.method in DISCREPANCIES:
            return DISCREPANCIES[self.method](rows.source, rows.target, *rows.valid, group=self.group)
        assert rows.bank is not None
        scores = rows.target @ rows.bank.T / self.temperature
        return CONFUSIONS[self.method](scores, rows.valid_target, group=self.group)
