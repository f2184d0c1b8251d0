"""Contrastive losses between two embedding spaces: paired features in, this rank's share of the global loss out.

B: pairs on this rank.  W: ranks.  N: valid pairs over all ranks.  D: embedding width.

*What a rank returns.* The sum over its own valid rows x W / N. The mean over ranks is the loss
(`mean_over_ranks(loss)` for the log); one rank's value alone is not, when ranks hold different numbers of valid rows.
With DDP, which averages gradients over ranks, every parameter (encoders, temperature, bias) gets the gradient of the
global mean, so nothing is to be all-reduced by hand. With one rank it is simply the loss. When no row is valid anywhere
the loss and all gradients are 0.

*What it costs.* The B x N similarities are computed in tiles, and once more in the backward; memory is linear in B
and N. Logits and sums are float32 (float64 for float64 features), also under autocast and from 16-bit features. Only
`v` is sent: gathered in the forward, its gradient reduce-scattered in the backward (not at all where `v` needs no
gradient); InfoNCE adds two all-reduces of N floats.

*What every rank must do.* Call with equal shapes (else ValueError everywhere), run the backward, and scale the result
equally: the upstream gradient is taken to be the same on all ranks.
"""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.tiled_sigmoid import Sigmoid
from xmodal.losses.tiled_softmax import Softmax


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
    """Symmetric InfoNCE with negatives from every rank (Radford et al. 2021, fig. 3).

    Row i of `u` and row i of `v` are a pair, of unit length; similarities are multiplied by exp(`log_scale`). Both
    directions are averaged; at random features the value is about ln N. Rows that are not `valid` are no anchors and
    no negatives. Two rows that share an id in any of the J columns (-1 shares with none) are no negatives of each
    other; every row keeps its own pair. `tile` is the side of a tile, by default 2048 on a CPU and 4096 elsewhere.
    """
    return Softmax.apply(u, v, log_scale, valid, ids, group, tile)


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
    """The sigmoid loss with negatives from every rank (Zhai et al. 2023, eq. 1).

    Every pair of rows is a binary decision with the logit exp(`log_scale`) u·v + `bias`; the sum over all pairs is
    divided by the number of valid rows, N (not N²). The paper starts at log_scale = ln 10 and bias = -10. The other
    arguments are those of `info_nce`.
    """
    return Sigmoid.apply(u, v, log_scale, bias, valid, ids, group, tile)
