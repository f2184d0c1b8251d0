"""The domain loss of one method at one strength, with its critic if it has one.

All rows are valid and on one rank: the losses are those of `xmodal.losses`, without their masks.
"""

import torch
from torch import Tensor, nn

from xmodal.losses.cdan import MultilinearConditioning, entropy_weights
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.domain_critic import adversarial_loss, critic_accuracy
from xmodal.losses.gradient_reversal import reverse_gradient
from xmodal.losses.prediction_losses import bnm, mcc

DISCREPANCIES = {"mmd": mmd, "coral": coral}  # between the hidden layers of both domains
PREDICTION_LOSSES = {"mcc": mcc, "bnm": bnm}  # of the predictions on the target


class AlignmentLoss(nn.Module):
    """The sum of the domain losses that a method names, joined by "+"; at most one of them may have a critic.

    A critic reads `features` [N, D] (that of CDAN `hidden` x predictions), discrepancies compare `hidden` [N, H], and
    losses of the predictions read class `scores` [N, K]. The first `sources` rows are those of the source. Names that
    are no domain loss add nothing. `metrics` are those of the last call.
    """

    def __init__(self, method: str, *, dim: int, hidden: int, classes: int, critic: tuple[int, ...]) -> None:
        super().__init__()
        self.methods = method.split("+")
        self.conditioning = MultilinearConditioning(hidden, classes) if "cdan" in self.methods else None
        width = dim if self.conditioning is None else self.conditioning.width
        self.critic = _critic(width, critic) if {"dann", "cdan"} & {*self.methods} else None
        self.metrics: dict[str, float] = {}

    def forward(self, features: Tensor, hidden: Tensor, scores: Tensor, sources: int, strength: float) -> Tensor:
        """Return the sum weighted by `strength`; of a critic's loss the reversed gradient is weighted instead."""
        rows = torch.ones(len(features), dtype=torch.bool)
        valid = rows[:sources], rows[sources:]
        total, self.metrics = features.sum() * 0, {}
        if self.critic is not None:
            critic_input = features if self.conditioning is None else hidden
            total = total + self._record(self._adversarial(critic_input, scores, valid, strength))
        for name in self.methods:
            if name in DISCREPANCIES:
                total = total + strength * self._record(DISCREPANCIES[name](hidden[:sources], hidden[sources:], *valid))
            elif name in PREDICTION_LOSSES:
                total = total + strength * self._record(PREDICTION_LOSSES[name](scores[sources:], valid[1]))
        return total

    def _adversarial(self, features: Tensor, scores: Tensor, valid: tuple[Tensor, Tensor], strength: float) -> Tensor:
        assert self.critic is not None
        rows, sizes, weights = reverse_gradient(features, strength), [len(part) for part in valid], {}
        if self.conditioning is not None:
            probabilities = scores.detach().softmax(1)
            rows = self.conditioning(rows, probabilities)
            entropies = entropy_weights(probabilities).split(sizes)
            weights = dict(zip(("weight_source", "weight_target"), entropies, strict=True))
        source, target = self.critic(rows).split(sizes)
        self.metrics["critic_accuracy"] = float(critic_accuracy(source, target, *valid))
        return adversarial_loss(source, target, *valid, **weights)

    def _record(self, loss: Tensor) -> Tensor:
        self.metrics["domain_loss"] = self.metrics.get("domain_loss", 0.0) + float(loss.detach())
        return loss


def _critic(dim: int, hidden: tuple[int, ...]) -> nn.Module:
    """Return the critic of the paper: a perceptron without normalisation."""
    layers: list[nn.Module] = []
    for width, next_width in zip((dim, *hidden), hidden, strict=False):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((dim, *hidden)[-1], 1), nn.Flatten(0))
