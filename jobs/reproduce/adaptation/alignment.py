"""Features, scores and predictions of two domains in, the loss of one method at one strength out; a critic inside.

Rows are all valid and all on one rank: the losses are those of `xmodal.losses`, without their masks.
"""

import torch
from torch import Tensor, nn

from xmodal.losses.cdan import Conditioning, certainty
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.domain_critic import adversarial, critic_accuracy
from xmodal.losses.gradient_reversal import reverse
from xmodal.losses.prediction_losses import bnm, mcc

BETWEEN = {"mmd": mmd, "coral": coral}  # the hidden layers of both domains
OF_PREDICTIONS = {"mcc": mcc, "bnm": bnm}  # of the target


class Alignment(nn.Module):
    """`features` [N, D] is what a critic reads, `hidden` [N, H] what all others do, `scores` [N, K] are classes'.

    All hold the rows of the source first, `sources` of them. A method is a name, or some joined by "+", of which one
    may have a critic; those that are not known here add nothing.
    """

    def __init__(self, method: str, *, dim: int, hidden: int, classes: int, critic: tuple[int, ...]) -> None:
        super().__init__()
        self.methods = method.split("+")
        self.conditioning = Conditioning(hidden, classes) if "cdan" in self.methods else None
        width = dim if self.conditioning is None else self.conditioning.width
        self.critic = _critic(width, critic) if {"dann", "cdan"} & {*self.methods} else None
        self.figures: dict[str, float] = {}

    def forward(self, features: Tensor, hidden: Tensor, scores: Tensor, sources: int, strength: float) -> Tensor:
        rows = torch.ones(len(features), dtype=torch.bool)
        valid = rows[:sources], rows[sources:]
        total, self.figures = features.sum() * 0, {}
        if self.critic is not None:
            read = features if self.conditioning is None else hidden
            total = total + self._seen(self._adversarial(read, scores, valid, strength))
        for name in self.methods:
            if name in BETWEEN:
                total = total + strength * self._seen(BETWEEN[name](hidden[:sources], hidden[sources:], *valid))
            elif name in OF_PREDICTIONS:
                total = total + strength * self._seen(OF_PREDICTIONS[name](scores[sources:], valid[1]))
        return total

    def _adversarial(self, features: Tensor, scores: Tensor, valid: tuple[Tensor, Tensor], strength: float) -> Tensor:
        assert self.critic is not None
        rows, sizes, weights = reverse(features, strength), [len(part) for part in valid], {}
        if self.conditioning is not None:
            known = scores.detach().softmax(1)
            rows = self.conditioning(rows, known)
            weights = dict(zip(("weight_source", "weight_target"), certainty(known).split(sizes), strict=True))
        source, target = self.critic(rows).split(sizes)
        self.figures["critic_accuracy"] = float(critic_accuracy(source, target, *valid))
        return adversarial(source, target, *valid, **weights)

    def _seen(self, loss: Tensor) -> Tensor:
        self.figures["domain_loss"] = self.figures.get("domain_loss", 0.0) + float(loss.detach())
        return loss


def _critic(dim: int, hidden: tuple[int, ...]) -> nn.Module:
    """The paper's critic: no normalisation."""
    layers: list[nn.Module] = []
    for wide, narrow in zip((dim, *hidden), hidden, strict=False):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((dim, *hidden)[-1], 1), nn.Flatten(0))
