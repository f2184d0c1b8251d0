"""Contrastive losses between two embedding spaces, with negatives from all ranks: InfoNCE (CLIP) and sigmoid (SigLIP).

B: pairs on this rank.  W: ranks.  N: valid pairs over all ranks.  D: embedding width.

*The return value* is this rank's share of the loss: the sum over its own valid rows x W / N. The mean over ranks is the
loss; the value of one rank alone is not, if ranks hold different numbers of valid rows. With DDP, which averages
gradients over ranks, every parameter (encoders, temperature, bias) gets the gradient of the global mean, so nothing has
to be all-reduced by hand. With one rank it is simply the loss. If no row is valid on any rank, the loss and all
gradients are 0.

*Cost.* The B x N similarities are computed in tiles, and again in the backward; memory is linear in B and N. Logits and
sums are float32 (float64 for float64 features), also under autocast and from 16-bit features. Only `v` is communicated:
gathered in the forward, its gradient reduce-scattered in the backward (not at all if `v` needs no gradient); InfoNCE
adds two all-reduces of N floats.

*Requirements.* Every rank calls with equal shapes (otherwise ValueError on all ranks), runs the backward, and scales
the result equally: the upstream gradient is assumed to be the same on all ranks.
"""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.tiled_sigmoid import tiled_sigmoid_loss
from xmodal.losses.tiled_softmax import tiled_softmax_loss


def info_nce(
    u: Float[Tensor, "B D"],
    v: Float[Tensor, "B D"],
    log_scale: Float[Tensor, ""],
    *,
    valid: Bool[Tensor, "B"] | None = None,
    ids: Int64[Tensor, "B"] | Int64[Tensor, "B J"] | None = None,
    group: Group = None,
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """Return this rank's share of symmetric InfoNCE, with negatives from all ranks (Radford et al. 2021, fig. 3).

    Row i of `u` and row i of `v` are a pair of unit vectors; similarities are multiplied by exp(`log_scale`). Both
    directions are averaged; for random features the value is about ln N. Rows that are not `valid` are neither anchors
    nor negatives. Two rows that share an id in any of the J columns (-1 equals nothing) are no negatives of each other;
    every row keeps its own pair. `tile` is the side of a tile, by default 2048 on a CPU and 4096 elsewhere.

    >>> import torch
    >>> image, text = torch.eye(4), torch.eye(4)
    >>> info_nce(image, text, torch.tensor(0.0))  # ln(e + 3) - 1
    tensor(0.7437)
    """
    return tiled_softmax_loss(u, v, log_scale, valid, ids, group, tile)


def sigmoid_loss(
    u: Float[Tensor, "B D"],
    v: Float[Tensor, "B D"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    *,
    valid: Bool[Tensor, "B"] | None = None,
    ids: Int64[Tensor, "B"] | Int64[Tensor, "B J"] | None = None,
    group: Group = None,
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """Return this rank's share of the sigmoid loss, with negatives from all ranks (Zhai et al. 2023, eq. 1).

    Every pair of rows is a binary decision with the logit exp(`log_scale`) u·v + `bias`; the sum over all pairs is
    divided by the number of valid rows N (not N²). The paper starts at log_scale = ln 10 and bias = -10. The other
    arguments are those of `info_nce`.

    >>> import torch
    >>> sigmoid_loss(torch.eye(2), torch.eye(2), torch.tensor(0.0), torch.tensor(0.0))  # softplus(-1) + softplus(0)
    tensor(1.0064)
    """
    return tiled_sigmoid_loss(u, v, log_scale, bias, valid, ids, group, tile)
