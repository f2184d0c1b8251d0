"""Consistency of predictions between two augmented views of the same unlabelled rows (FixMatch).

T: target rows on this rank.  K: classes, or captions of a bank.  For embeddings instead of classes, treat the two views
as the pairs of `xmodal.losses.contrastive.info_nce`.
"""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from xmodal.distributed.ranks import Group, world_size


def consistency_loss(
    weak: Float[Tensor, "T K"],
    strong: Float[Tensor, "T K"],
    valid: Bool[Tensor, "T"],
    *,
    threshold: float = 0.9,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the `strong` view's scores with the class predicted on the `weak` view.

    FixMatch (Sohn et al. 2020, eq. 4): predictions on the weakly augmented view are constants and count only with a
    probability of at least `threshold`; other rows contribute 0. Returns this rank's share of the mean over the valid
    rows of all ranks.
    """
    float_scores = [x if x.dtype == torch.float64 else x.float() for x in (weak.detach(), strong)]
    weak_scores, strong_scores = (x.masked_fill(~valid[:, None], 0) for x in float_scores)
    with torch.autocast(weak.device.type, enabled=False):
        confidence, label = weak_scores.softmax(1).max(1)
        confident = valid & (confidence >= threshold)
        losses = F.cross_entropy(strong_scores, label, reduction="none")
        valid_rows = valid.sum().double()
        if (world := world_size(group)) > 1:
            dist.all_reduce(valid_rows, group=group)
        return (losses * confident).sum() * (world / valid_rows.clamp(min=1)).to(losses.dtype)
