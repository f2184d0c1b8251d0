"""Pseudo-pairs of unpaired images and texts of a domain, and the contrastive loss on them.

A pseudo-pair is two rows that are each other's nearest neighbour and similar enough, or a match in the best one-to-one
assignment of all rows. The guesses are the model's own: where they are wrong, training confirms the error.
"""

import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from xmodal.distributed.ranks import Group
from xmodal.losses.valid_rows import gather_valid_rows


@torch.no_grad()
def mutual_nearest_neighbours(
    u: Float[Tensor, "M D"], v: Float[Tensor, "P D"], *, threshold: float = -1.0
) -> Int64[Tensor, "K 2"]:
    """Return the rows (i, j) that are each other's nearest by dot product, of at least `threshold`; K <= min(M, P).

    Of equally near rows the first one counts, so that copies of a row form at most one pair.

    >>> mutual_nearest_neighbours(torch.eye(3), torch.eye(3)[[2, 0, 1]]).tolist()
    [[0, 1], [1, 2], [2, 0]]
    """
    if not (len(u) and len(v)):
        return torch.zeros(0, 2, dtype=torch.int64, device=u.device)
    cosine = u @ v.T
    best, nearest_v = cosine.max(1)
    nearest_u = cosine.argmax(0)
    rows = torch.arange(len(u), device=u.device)
    mutual = rows[(nearest_u[nearest_v] == rows) & (best >= threshold)]
    return torch.stack([mutual, nearest_v[mutual]], 1)


@torch.no_grad()
def best_assignment(scores: Float[Tensor, "M P"]) -> Int64[Tensor, "K 2"]:
    """Return rows and columns (i, j), each used once, with the largest sum of scores; K = min(M, P), i ascending.

    It assumes that both sides show the same things about equally often, like the optimal transport of S-CLIP (Mo et al.
    2023); otherwise rows without a real partner are paired, too. Takes cubic time: seconds for thousands of rows.

    >>> best_assignment(torch.tensor([[0.9, 0.8], [0.8, 0.1]])).tolist()
    [[0, 1], [1, 0]]
    """
    rows, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    pairs = torch.stack([torch.from_numpy(rows), torch.from_numpy(columns)], 1)
    return pairs.to(scores.device)


def pseudo_pair_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "C D"],
    scale: Float[Tensor, ""] | float,
    valid_image: Bool[Tensor, "B"],
    valid_text: Bool[Tensor, "C"],
    *,
    threshold: float,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Return symmetric InfoNCE on the pseudo-pairs of all ranks' unit rows, at a constant `scale` (1 / temperature).

    Every rank returns the whole value as its share (`xmodal.losses.valid_rows`). Rows without a partner are neither
    anchors nor negatives. With fewer than two pairs there are no negatives and the loss is 0.
    """
    with torch.autocast(image.device.type, enabled=False):
        u, v = gather_valid_rows(image, valid_image, group), gather_valid_rows(text, valid_text, group)
        pairs = mutual_nearest_neighbours(u, v, threshold=threshold)
        if len(pairs) < 2:
            return 0 * (u.sum() + v.sum())
        logits = (u[pairs[:, 0]] @ v[pairs[:, 1]].T) * float(scale)
        targets = torch.arange(len(pairs), device=u.device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
