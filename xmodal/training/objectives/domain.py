"""The domain loss at one alignment point: a critic, a discrepancy, or a loss on the target's predictions.

An alignment point is a set of features at which the two domains are made alike: those of one modality, or the joint
features of all. Each has a loss of its own, and a critic of its own if the method needs one.

S, T: rows of the source and of the target on this rank, N = S + T.  D: width.  K: captions of the bank, or classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.errors import ConfigError, nearest
from xmodal.losses.cdan import MultilinearConditioning, bank_probabilities, entropy_weights
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.domain_critic import HIDDEN_WIDTHS, DomainCritic, adversarial_loss, critic_accuracy, gradient_penalty
from xmodal.losses.gradient_reversal import reverse_gradient
from xmodal.losses.prediction_losses import bnm, mcc
from xmodal.training.domain_methods import CRITIC_METHODS, DOMAIN_METHODS, PROBABILITY_METHODS

DISCREPANCIES = {"mmd": mmd, "coral": coral}
PREDICTION_LOSSES = {"mcc": mcc, "bnm": bnm}
TEMPERATURE = 0.1  # of cosines with the bank


@dataclass(frozen=True, kw_only=True)
class DomainFeatures:
    """The features of both domains at one alignment point; rows that are not valid are ignored.

    Probabilities are computed from the class `scores` of all rows (source rows first), or from the cosine similarities
    with a `bank` of unit rows, which are constants.
    """

    source: Float[Tensor, "S D"]
    target: Float[Tensor, "T D"]
    valid_source: Bool[Tensor, "S"]
    valid_target: Bool[Tensor, "T"]
    bank: Float[Tensor, "K D"] | None = None
    scores: Float[Tensor, "N K"] | None = None

    @property
    def all_rows(self) -> Float[Tensor, "N D"]:
        return torch.cat([self.source, self.target])

    @property
    def valid(self) -> tuple[Bool[Tensor, "S"], Bool[Tensor, "T"]]:
        return self.valid_source, self.valid_target

    @property
    def detached(self) -> "DomainFeatures":
        """Return a copy without a graph."""
        scores = None if self.scores is None else self.scores.detach()
        return replace(self, source=self.source.detach(), target=self.target.detach(), scores=scores)

    def probabilities(self, temperature: float) -> Float[Tensor, "N K"]:
        """Return the probabilities of all rows as constants; `temperature` divides cosine similarities."""
        if self.scores is not None:
            return self.scores.detach().softmax(1)
        assert self.bank is not None
        return bank_probabilities(self.all_rows.detach(), self.bank, temperature)

    def target_scores(self, temperature: float) -> Float[Tensor, "T K"]:
        """Return the target's scores before the softmax, with their graph."""
        if self.scores is not None:
            return self.scores[len(self.source) :]
        assert self.bank is not None
        return self.target @ self.bank.T / temperature


class DomainLoss(nn.Module):
    """One domain adaptation method at one alignment point.

    The strength scales the gradient that reaches the encoders, never that of the critic. `classes` is K, for methods
    that read probabilities. Raises ConfigError for an unknown method, or if such a method has fewer than 2 classes.
    """

    def __init__(
        self,
        method: str,
        dim: int,
        *,
        hidden: Sequence[int] = HIDDEN_WIDTHS,
        spectral: bool = False,
        smoothing: float = 0.0,
        penalty: float = 0.0,
        classes: int = 0,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        if method not in DOMAIN_METHODS:
            raise ConfigError(f"unknown domain.loss {method!r}; {nearest(method, (*DOMAIN_METHODS, 'none'))}")
        if method in PROBABILITY_METHODS and classes < 2:
            raise ConfigError(f"domain.loss={method} reads probabilities: it needs at least 2 captions or classes")
        self.method, self.smoothing, self.penalty = method, smoothing, penalty
        self.temperature = temperature
        self.conditioning = MultilinearConditioning(dim, classes) if method == "cdan" else None
        width = dim if self.conditioning is None else self.conditioning.width
        self.critic = DomainCritic(width, hidden, spectral=spectral) if method in CRITIC_METHODS else None
        self._last_features: DomainFeatures | None = None

    def forward(
        self, features: DomainFeatures, strength: float
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return this rank's share of the loss, and metrics: `loss` (a share), `accuracy` (of all ranks)."""
        if self.critic is None:
            loss = self._loss_without_critic(features)
            return strength * loss, {"loss": loss.detach()}
        self._last_features = features.detached
        loss, logits = self._critic_loss(features, strength)
        accuracy = critic_accuracy(*logits, *features.valid)
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    def recompute(self) -> Float[Tensor, ""] | None:
        """Compute the critic's loss again on the features of the last forward as constants; None without a critic."""
        return None if self._last_features is None else self._critic_loss(self._last_features, 0.0)[0]

    def _critic_loss(self, features: DomainFeatures, strength: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert self.critic is not None
        inputs = reverse_gradient(features.all_rows, strength)
        weight_source, weight_target = None, None
        sizes = [len(features.source), len(features.target)]
        if self.conditioning is not None:
            probabilities = features.probabilities(self.temperature)
            inputs = self.conditioning(inputs, probabilities)
            weight_source, weight_target = torch.split(entropy_weights(probabilities), sizes)
        source, target = torch.split(self.critic(inputs), sizes)
        loss = adversarial_loss(
            source, target, *features.valid,
            weight_source=weight_source, weight_target=weight_target, smoothing=self.smoothing,
        )  # fmt: skip
        if self.penalty:
            source_inputs, target_inputs = torch.split(inputs, sizes)
            slope = gradient_penalty(self.critic, source_inputs, target_inputs, *features.valid)
            loss = loss + self.penalty * slope
        return loss, (source, target)

    def _loss_without_critic(self, features: DomainFeatures) -> Tensor:
        if self.method in DISCREPANCIES:
            return DISCREPANCIES[self.method](features.source, features.target, *features.valid)
        scores = features.target_scores(self.temperature)
        return PREDICTION_LOSSES[self.method](scores, features.valid_target)
