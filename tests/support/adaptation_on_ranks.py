"""Trains a small encoder with a domain loss under DDP, as one of several ranks of a test.

A case has the rows of all ranks as tensors; `parts` has the number of rows of each domain for every rank.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from support.loss_on_ranks import mean_over_ranks
from xmodal.losses.cdan import MultilinearConditioning, entropy_weights
from xmodal.losses.consistency import consistency_loss
from xmodal.losses.discrepancy import coral, mmd
from xmodal.losses.domain_critic import DomainCritic, adversarial_loss, critic_accuracy, gradient_penalty
from xmodal.losses.gradient_reversal import reverse_gradient
from xmodal.losses.prediction_losses import bnm, mcc
from xmodal.losses.pseudo_pairs import pseudo_pair_loss

Case = dict[str, Tensor]
KINDS = ("dann", "penalty", "mmd", "coral", "cdan", "mcc", "bnm", "pseudo_pairs", "consistency")
IN, OUT, CLASSES = 5, 4, 3


class AdaptedEncoder(nn.Module):
    """A linear encoder, a label head and a critic; one forward returns this rank's share of the domain loss."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.encoder, self.head = nn.Linear(IN, OUT), nn.Linear(OUT, CLASSES)
        self.conditioning = MultilinearConditioning(OUT, CLASSES)
        self.critic = DomainCritic(self.conditioning.width if kind == "cdan" else OUT, (8,))

    def forward(self, source: Tensor, target: Tensor, valid: tuple[Tensor, Tensor]) -> Tensor:
        features = self.encoder(torch.cat([source, target])).tanh()
        s, t = features[: len(source)], features[len(source) :]
        unused = sum(0 * p.sum() for p in self.parameters())  # DDP waits for the gradient of each parameter
        return self._loss(s, t, valid) + unused

    def _loss(self, s: Tensor, t: Tensor, valid: tuple[Tensor, Tensor]) -> Tensor:
        if self.kind in ("mmd", "coral"):
            return {"mmd": mmd, "coral": coral}[self.kind](s, t, *valid)
        if self.kind in ("mcc", "bnm"):
            return {"mcc": mcc, "bnm": bnm}[self.kind](self.head(t), valid[1])
        if self.kind == "pseudo_pairs":
            unit = [nn.functional.normalize(x, dim=1) for x in (s, t)]
            return pseudo_pair_loss(*unit, 5.0, *valid, threshold=0.0)
        if self.kind == "consistency":
            return consistency_loss(self.head(t), self.head(2 * t), valid[1], threshold=0.4)
        return self._adversarial(s, t, valid)

    def _adversarial(self, s: Tensor, t: Tensor, valid: tuple[Tensor, Tensor]) -> Tensor:
        rows = reverse_gradient(torch.cat([s, t]), 0.7)
        weights: dict[str, Tensor] = {}
        if self.kind == "cdan":
            probabilities = self.head(torch.cat([s, t])).softmax(1)
            rows, row_weights = self.conditioning(rows, probabilities), entropy_weights(probabilities)
            weights = {"weight_source": row_weights[: len(s)], "weight_target": row_weights[len(s) :]}
        logits = self.critic(rows)
        self.accuracy = critic_accuracy(logits[: len(s)], logits[len(s) :], *valid)
        loss = adversarial_loss(logits[: len(s)], logits[len(s) :], *valid, smoothing=0.1, **weights)
        if self.kind == "penalty":
            loss = loss + gradient_penalty(self.critic, rows[: len(s)], rows[len(s) :], *valid)
        return loss


def rank_part(x: Tensor, parts: list[int]) -> Tensor:
    return x.split(parts)[dist.get_rank()]


def train(case: Case, kind: str, parts: dict[str, list[int]], steps: int) -> dict[str, Tensor]:
    """Return the global losses of some steps, and the parameters after them."""
    module = AdaptedEncoder(kind).to(case["source"].dtype)
    wrapped = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3, momentum=0.9)
    source, target = (rank_part(case[name], parts[name]) for name in ("source", "target"))
    valid = rank_part(case["valid_source"], parts["source"]), rank_part(case["valid_target"], parts["target"])
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        share = wrapped(source, target, valid)
        share.backward()
        optimizer.step()
        losses.append(mean_over_ranks(share))
    results = {"losses": torch.stack(losses), **{n: p.detach() for n, p in module.named_parameters()}}
    if hasattr(module, "accuracy"):
        results["accuracy"] = module.accuracy
    return results
