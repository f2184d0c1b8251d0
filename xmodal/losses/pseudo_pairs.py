"""Unpaired images and texts of a domain in, guessed pairs of them, and the loss of these, out.

A pair is guessed where a row of either side is the other's nearest, and near enough; or by the assignment of all rows
to different ones that is best as a whole. The guesses are the model's own: they teach it nothing where it is wrong, and
confirm it there.
"""

import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from xmodal.distributed.ranks import Group
from xmodal.losses.valid_rows import valid_rows


@torch.no_grad()
def mutual_nearest(
    u: Float[Tensor, "M D"], v: Float[Tensor, "P D"], *, threshold: float = -1.0
) -> Int64[Tensor, "K 2"]:
    """Rows (i, j) that are each other's nearest by dot product, which is at least `threshold`; K <= min(M, P).

    Among equals the first is the nearest, so that copies of a row form one pair at the most.
    """
    if not (len(u) and len(v)):
        return torch.zeros(0, 2, dtype=torch.int64, device=u.device)
    cosine = u @ v.T
    best, forth = cosine.max(1)
    back = cosine.argmax(0)
    rows = torch.arange(len(u), device=u.device)
    mutual = rows[(back[forth] == rows) & (best >= threshold)]
    return torch.stack([mutual, forth[mutual]], 1)


@torch.no_grad()
def best_assignment(scores: Float[Tensor, "M P"]) -> Int64[Tensor, "K 2"]:
    """Rows and columns (i, j), each used once, whose scores have the largest sum; K = min(M, P), i ascending.

    It supposes that both sides show the same things about equally often, as S-CLIP's optimal transport does (Mo et al.
    2023); where they do not, the rows that have no partner are paired too. In cubic time: seconds for thousands.
    """
    rows, columns = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    pairs = torch.stack([torch.from_numpy(rows), torch.from_numpy(columns)], 1)
    return pairs.to(scores.device)


def pseudo_pairs(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "C D"],
    scale: Float[Tensor, ""] | float,
    valid_image: Bool[Tensor, "B"],
    valid_text: Bool[Tensor, "C"],
    *,
    threshold: float,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE among the guessed pairs of all ranks' unit rows, at a constant `scale` (1 / temperature).

    Every rank returns the whole as its share (`xmodal.losses.valid_rows`). Rows without a partner are neither anchors
    nor negatives; with fewer than two pairs there is nothing to tell apart and the loss is 0.
    """
    with torch.autocast(image.device.type, enabled=False):
        u, v = valid_rows(image, valid_image, group), valid_rows(text, valid_text, group)
        pairs = mutual_nearest(u, v, threshold=threshold)
        if len(pairs) < 2:
            return 0 * (u.sum() + v.sum())
        logits = (u[pairs[:, 0]] @ v[pairs[:, 1]].T) * float(scale)
        own = torch.arange(len(pairs), device=u.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
