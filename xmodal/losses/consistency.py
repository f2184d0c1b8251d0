"""Class scores of the same unlabelled rows in two views in, the loss of the harder view against the easier one out.

T: target rows on this rank.  K: classes, or captions of a bank.  For embeddings instead of classes, two views are pairs
of `xmodal.losses.contrastive.info_nce`.
"""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from xmodal.distributed.ranks import Group, world_size


def consistency(
    plain: Float[Tensor, "T K"],
    strong: Float[Tensor, "T K"],
    valid: Bool[Tensor, "T"],
    *,
    threshold: float = 0.9,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the `strong` view's scores for the class that the `plain` view gives at least `threshold`.

    FixMatch (Sohn et al. 2020, eq. 4): the plain view is a constant, rows that it is not sure of give 0. This rank's
    share of the mean over the valid rows of all ranks.
    """
    wide = [x if x.dtype == torch.float64 else x.float() for x in (plain.detach(), strong)]
    known, asked = (x.masked_fill(~valid[:, None], 0) for x in wide)
    with torch.autocast(plain.device.type, enabled=False):
        sure, label = known.softmax(1).max(1)
        counted = valid & (sure >= threshold)
        each = F.cross_entropy(asked, label, reduction="none")
        number = valid.sum().double()
        if (world := world_size(group)) > 1:
            dist.all_reduce(number, group=group)
        return (each * counted).sum() * (world / number.clamp(min=1)).to(each.dtype)
