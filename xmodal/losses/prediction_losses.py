"""Losses of the target's predictions alone, without a critic: class scores of unlabelled rows in, one number out.

T: target rows on this rank.  n: valid ones over all ranks.  K: classes, or captions of a bank.  `logits` are scores
before the softmax (cosine / a fixed temperature for a bank). Rows are gathered as in `xmodal.losses.discrepancy`: every
rank returns the whole as its share, and without any valid row it is 0. All are small where predictions are sure and all
classes occur; none can know whether they are right, and all suppose that the classes are about equally frequent.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.valid_rows import valid_rows


def mcc(
    logits: Float[Tensor, "T K"], valid: Bool[Tensor, "T"], *, temperature: float = 2.5, group: Group = None
) -> Float[Tensor, ""]:
    """Minimum class confusion (Jin et al. 2020, eq. 2 to 6): how often two classes share a row's mass, in [0, 1].

    Softmax at `temperature`, rows weighted by 1 + exp(-entropy) (constants with mean 1), each class's confusions
    normalised to sum 1, the mean over classes of what is not its own.
    """
    scores = valid_rows(logits, valid, group)
    if not len(scores):
        return 0 * scores.sum()
    with torch.autocast(logits.device.type, enabled=False):
        sure = (scores / temperature).softmax(1)
        weight = 1 + torch.exp(torch.xlogy(sure, sure).sum(1)).detach()
        shared = (sure * (weight / weight.mean())[:, None]).T @ sure
        shared = shared / shared.sum(1, keepdim=True).clamp(min=torch.finfo(shared.dtype).tiny)
        return (shared.sum() - shared.trace()) / len(shared)


def bnm(logits: Float[Tensor, "T K"], valid: Bool[Tensor, "T"], *, group: Group = None) -> Float[Tensor, ""]:
    """Batch nuclear-norm maximisation (Cui et al. 2020, eq. 11): minus the nuclear norm of the probabilities over n.

    In [-1, 0). It falls with sure predictions and with many classes. It is a mean over rows but no sum of rows: its
    least value, -sqrt(min(n, K) / n), depends on the size of the batch.
    """
    scores = valid_rows(logits, valid, group)
    if not len(scores):
        return 0 * scores.sum()
    with torch.autocast(logits.device.type, enabled=False):
        return -torch.linalg.matrix_norm(scores.softmax(1), "nuc") / len(scores)


def information(logits: Float[Tensor, "T K"], valid: Bool[Tensor, "T"], *, group: Group = None) -> Float[Tensor, ""]:
    """Minus the mutual information of row and class, in [-ln K, 0]: mean entropy minus the entropy of the mean.

    Information maximisation as in SHOT (Liang et al. 2020, eq. 3), in nats.
    """
    scores = valid_rows(logits, valid, group)
    if not len(scores):
        return 0 * scores.sum()
    with torch.autocast(logits.device.type, enabled=False):
        sure = scores.log_softmax(1)
        mean = sure.exp().mean(0)
        return torch.xlogy(mean, mean).sum() - (sure.exp() * sure).sum(1).mean()
