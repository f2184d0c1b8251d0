"""Losses on the predictions for unlabelled target rows, without a critic: MCC and batch nuclear-norm maximisation.

T: target rows on this rank.  n: valid ones over all ranks.  K: classes, or captions of a bank.  `logits` are scores
before the softmax (cosine / a fixed temperature for a bank). Rows are gathered as in `xmodal.losses.discrepancy`: every
rank returns the whole value as its share, and it is 0 if no row is valid. Both are small if predictions are confident
and all classes occur. Neither can know whether predictions are right, and both assume that classes are about equally
frequent.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.valid_rows import gather_valid_rows


def mcc(
    logits: Float[Tensor, "T K"], valid: Bool[Tensor, "T"], *, temperature: float = 2.5, group: Group = None
) -> Float[Tensor, ""]:
    """Return the minimum class confusion (Jin et al. 2020, eq. 2 to 6): how much two classes share rows, in [0, 1].

    Softmax at `temperature`, rows weighted by 1 + exp(-entropy) (constants with mean 1), the confusions of each class
    normalised to sum 1; then the mean over classes of the confusion with other classes.

    >>> everyone = torch.ones(2, dtype=torch.bool)
    >>> round(mcc(torch.zeros(2, 4), everyone).item(), 4)
    0.75
    """
    scores = gather_valid_rows(logits, valid, group)
    if not len(scores):
        return 0 * scores.sum()
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = (scores / temperature).softmax(1)
        weight = 1 + torch.exp(torch.xlogy(probabilities, probabilities).sum(1)).detach()
        confusion = (probabilities * (weight / weight.mean())[:, None]).T @ probabilities
        confusion = confusion / confusion.sum(1, keepdim=True).clamp(min=torch.finfo(confusion.dtype).tiny)
        return (confusion.sum() - confusion.trace()) / len(confusion)


def bnm(logits: Float[Tensor, "T K"], valid: Bool[Tensor, "T"], *, group: Group = None) -> Float[Tensor, ""]:
    """Return minus the nuclear norm of the probabilities over n (batch nuclear-norm maximisation).

    Cui et al. 2020, eq. 11. In [-1, 0). It falls with confident predictions and with many classes. It is a mean over
    rows but no sum of per-row terms: its least value, -sqrt(min(n, K) / n), depends on the size of the batch.

    >>> everyone = torch.ones(2, dtype=torch.bool)
    >>> round(bnm(torch.tensor([[50.0, 0.0], [0.0, 50.0]]), everyone).item(), 4)
    -1.0
    """
    scores = gather_valid_rows(logits, valid, group)
    if not len(scores):
        return 0 * scores.sum()
    with torch.autocast(logits.device.type, enabled=False):
        return -nuclear_norm(scores) / len(scores)


def nuclear_norm(logits: Float[Tensor, "T K"]) -> Float[Tensor, ""]:
    """Return the nuclear norm of the class probabilities of all rows, at most sqrt(min(T, K) T)."""
    norm: Tensor = torch.linalg.matrix_norm(logits.softmax(1), "nuc")
    return norm
