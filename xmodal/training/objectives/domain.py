"""Embeddings of two domains in, a loss whose descent makes them alike out: by a critic, a discrepancy or sure answers.

A *place* is where the domains meet: the features of one modality, or those of all together. Every place has a loss of
its own, and a critic of its own where the method needs one.

S, T: rows of the source and of the target on this rank, N = S + T.  D: width.  K: captions of the bank, or classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.distributed.ranks import Group
from xmodal.errors import ConfigError, nearest
from xmodal.losses.cdan import Conditioning, assignments, certainty
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.domain_critic import HIDDEN, Critic, adversarial, critic_accuracy, gradient_penalty
from xmodal.losses.gradient_reversal import reverse
from xmodal.losses.prediction_losses import bnm, mcc
from xmodal.training.domain_methods import METHODS, WITH_BANK, WITH_CRITIC

DISCREPANCIES = {"mmd": mmd, "coral": coral}
CONFUSIONS = {"mcc": mcc, "bnm": bnm}
TEMPERATURE = 0.1  # of cosines with the bank


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The features of one place; rows that are not valid count for nothing.

    Probabilities come from class `scores` of all rows, the source's first (a label predictor's), or from cosines with
    a `bank` of unit rows, which are constants.
    """

    source: Float[Tensor, "S D"]
    target: Float[Tensor, "T D"]
    valid_source: Bool[Tensor, "S"]
    valid_target: Bool[Tensor, "T"]
    bank: Float[Tensor, "K D"] | None = None
    scores: Float[Tensor, "N K"] | None = None

    @property
    def both(self) -> Float[Tensor, "N D"]:
        return torch.cat([self.source, self.target])

    @property
    def valid(self) -> tuple[Bool[Tensor, "S"], Bool[Tensor, "T"]]:
        return self.valid_source, self.valid_target

    @property
    def constant(self) -> "Domains":
        """The same without a graph."""
        scores = None if self.scores is None else self.scores.detach()
        return replace(self, source=self.source.detach(), target=self.target.detach(), scores=scores)

    def probabilities(self, temperature: float) -> Float[Tensor, "N K"]:
        """Of all rows, as constants; `temperature` is of cosines."""
        if self.scores is not None:
            return self.scores.detach().softmax(1)
        assert self.bank is not None
        return assignments(self.both.detach(), self.bank, temperature)

    def scores_of_target(self, temperature: float) -> Float[Tensor, "T K"]:
        """Before the softmax, with their graph."""
        if self.scores is not None:
            return self.scores[len(self.source) :]
        assert self.bank is not None
        return self.target @ self.bank.T / temperature


class DomainLoss(nn.Module):
    """One method at one place. The strength multiplies what reaches the encoders, never a critic's own training.

    `classes` is K, for methods that read probabilities. ConfigError for a method that is not known, or without them.
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
        classes: int = 0,
        temperature: float = TEMPERATURE,
        group: Group = None,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ConfigError(f"unknown domain.loss {method!r}; {nearest(method, (*METHODS, 'none'))}")
        if method in WITH_BANK and classes < 2:
            raise ConfigError(f"domain.loss={method} reads probabilities: it needs at least 2 captions or classes")
        self.method, self.smoothing, self.penalty, self.group = method, smoothing, penalty, group
        self.temperature = temperature
        self.conditioning = Conditioning(dim, classes) if method == "cdan" else None
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
            known = rows.probabilities(self.temperature)
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
        return CONFUSIONS[self.method](rows.scores_of_target(self.temperature), rows.valid_target, group=self.group)
