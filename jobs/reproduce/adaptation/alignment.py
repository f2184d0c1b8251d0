"""Features, scores and predictions of two domains in, the loss of one method at one strength out; a critic inside.

Rows are all valid and all on one rank: the losses are those of `xmodal.losses`, without their masks.
"""

import torch
from torch import Tensor, nn

from xmodal.losses.conditional import Conditioning, certainty
from xmodal.losses.confusion import bnm, mcc
from xmodal.losses.critic import adversarial, critic_accuracy
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.reversal import reverse


class Alignment(nn.Module):
    """`features` [N, D] is what a critic reads, `hidden` [N, H] what all others do, `scores` [N, K] are classes'.

    All hold the rows of the source first, `sources` of them. Without a method the loss is 0.
    """

    def __init__(self, method: str, *, dim: int, hidden: int, classes: int, critic: tuple[int, ...]) -> None:
        super().__init__()
        self.method = method
        self.conditioning = Conditioning(hidden, classes) if method == "cdan" else None
        width = dim if self.conditioning is None else self.conditioning.width
        self.critic = _critic(width, critic) if method in ("dann", "cdan") else None
        self.figures: dict[str, float] = {}

    def forward(self, features: Tensor, hidden: Tensor, scores: Tensor, sources: int, strength: float) -> Tensor:
        rows = torch.ones(len(features), dtype=torch.bool)
        valid = rows[:sources], rows[sources:]
        if self.critic is not None:
            return self._adversarial(features if self.method == "dann" else hidden, scores, valid, strength)
        if self.method in ("mmd", "coral"):
            measure = {"mmd": mmd, "coral": coral}[self.method]
            return strength * self._seen(measure(hidden[:sources], hidden[sources:], *valid))
        if self.method in ("mcc", "bnm"):
            return strength * self._seen({"mcc": mcc, "bnm": bnm}[self.method](scores[sources:], valid[1]))
        return features.sum() * 0

    def _adversarial(self, features: Tensor, scores: Tensor, valid: tuple[Tensor, Tensor], strength: float) -> Tensor:
        assert self.critic is not None
        rows, sizes, weights = reverse(features, strength), [len(part) for part in valid], {}
        if self.conditioning is not None:
            known = scores.detach().softmax(1)
            rows = self.conditioning(rows, known)
            weights = dict(zip(("weight_source", "weight_target"), certainty(known).split(sizes), strict=True))
        source, target = self.critic(rows).split(sizes)
        loss = self._seen(adversarial(source, target, *valid, **weights))
        self.figures["critic_accuracy"] = float(critic_accuracy(source, target, *valid))
        return loss

    def _seen(self, loss: Tensor) -> Tensor:
        self.figures = {"domain_loss": float(loss.detach())}
        return loss


def _critic(dim: int, hidden: tuple[int, ...]) -> nn.Module:
    """The paper's critic: no normalisation."""
    layers: list[nn.Module] = []
    for wide, narrow in zip((dim, *hidden), hidden, strict=False):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((dim, *hidden)[-1], 1), nn.Flatten(0))
