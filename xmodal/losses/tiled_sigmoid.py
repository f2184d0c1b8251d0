"""The sigmoid loss over a tiled similarity matrix: features in, this rank's share of the loss and its gradients out.

With z = +1 for a true pair and -1 elsewhere, the loss of one entry is softplus(-z * logit). The diagonal of true pairs
is negated in place, so that softplus and its derivative then serve the whole tile.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.ranks import Group
from xmodal.losses.pairs import Pairs, join
from xmodal.losses.similarity_tiles import Gradients, logits_dtype, tiles

EXACT_BELOW = 40  # softplus(x) - x < 1e-17 above: no float64 sees it


class Sigmoid(torch.autograd.Function):
    """SigLIP's loss; see `xmodal.losses.contrastive.sigmoid_loss`. Keeps the features only."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        v: Tensor,
        log_scale: Tensor,
        bias: Tensor,
        valid: Tensor | None,
        ids: Tensor | None,
        group: Group,
        tile: int | None,
    ) -> Tensor:
        pairs = join(u, v, valid, ids, group)
        ctx.rows, ctx.duplicates, ctx.group, ctx.tile = pairs.rows, pairs.duplicates, group, tile
        ctx.dtypes = u.dtype, v.dtype, log_scale.dtype, bias.dtype
        with torch.autocast(u.device.type, enabled=False):
            scale = log_scale.to(logits_dtype(u, v)).exp()
            of_rows = scale.new_zeros(len(pairs.u))
            for part in tiles(pairs, scale, tile):
                part.logits.add_(bias)
                part.own.neg_()
                of_rows[part.rows] += _softplus(part.logits, part.scratch).sum(1)
        ctx.save_for_backward(pairs.u, pairs.v, scale, bias)
        return of_rows.sum() * pairs.rows.share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, v, scale, bias = ctx.saved_tensors
        pairs = Pairs(u=u, v=v, rows=ctx.rows, duplicates=ctx.duplicates)
        with torch.autocast(u.device.type, enabled=False):
            sums, dbias = Gradients(pairs, scale, ctx.needs_input_grad), scale.new_zeros(len(u))
            for tile in tiles(pairs, scale, ctx.tile):
                tile.logits.add_(bias)
                tile.own.neg_()
                dlogits = tile.logits.sigmoid_()
                tile.own.neg_()
                dbias[tile.rows] += dlogits.sum(1)
                sums.add(tile, dlogits)
            weight = gradient * pairs.rows.share
            gradients = *sums.finish(weight, ctx.group), dbias.sum() * weight
        typed = (None if g is None else g.to(t) for g, t in zip(gradients, ctx.dtypes, strict=True))
        return *typed, None, None, None, None


def _softplus(x: Tensor, out: Tensor) -> Tensor:
    return F.softplus(x, threshold=EXACT_BELOW, out=out)  # type: ignore[call-arg]  # torch's stub lacks `out`
