"""The sigmoid loss and its gradients over a tiled similarity matrix.

With z = +1 for a true pair and -1 elsewhere, the loss of one entry is softplus(-z * logit). The diagonal of true pairs
is negated in place, so that softplus and its derivative serve the whole tile.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.ranks import Group
from xmodal.losses.pairs import GatheredPairs, gather_pairs
from xmodal.losses.similarity_tiles import FeatureGradients, iterate_tiles, logits_dtype

EXACT_BELOW = 40  # above, softplus(x) - x < 1e-17 is lost even in float64


class TiledSigmoidLoss(torch.autograd.Function):
    """SigLIP's loss as an autograd function that stores the features only; see `xmodal.losses.contrastive`."""

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
        pairs = gather_pairs(u, v, valid, ids, group)
        ctx.rows, ctx.duplicates, ctx.group, ctx.tile = pairs.rows, pairs.duplicates, group, tile
        ctx.dtypes = u.dtype, v.dtype, log_scale.dtype, bias.dtype
        with torch.autocast(u.device.type, enabled=False):
            scale = log_scale.to(logits_dtype(u, v)).exp()
            row_losses = scale.new_zeros(len(pairs.u))
            for block in iterate_tiles(pairs, scale, tile):
                block.logits.add_(bias)
                block.positives.neg_()
                row_losses[block.rows] += _softplus(block.logits, block.scratch).sum(1)
        ctx.save_for_backward(pairs.u, pairs.v, scale, bias)
        return row_losses.sum() * pairs.rows.share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, v, scale, bias = ctx.saved_tensors
        pairs = GatheredPairs(u=u, v=v, rows=ctx.rows, duplicates=ctx.duplicates)
        with torch.autocast(u.device.type, enabled=False):
            sums, dbias = FeatureGradients(pairs, scale, ctx.needs_input_grad), scale.new_zeros(len(u))
            for tile in iterate_tiles(pairs, scale, ctx.tile):
                tile.logits.add_(bias)
                tile.positives.neg_()
                dlogits = tile.logits.sigmoid_()
                tile.positives.neg_()
                dbias[tile.rows] += dlogits.sum(1)
                sums.add(tile, dlogits)
            weight = gradient * pairs.rows.share
            gradients = *sums.finish(weight, ctx.group), dbias.sum() * weight
        typed = (None if g is None else g.to(t) for g, t in zip(gradients, ctx.dtypes, strict=True))
        return *typed, None, None, None, None


tiled_sigmoid_loss: Callable[..., Tensor] = TiledSigmoidLoss.apply


def _softplus(x: Tensor, out: Tensor) -> Tensor:
    return F.softplus(x, threshold=EXACT_BELOW, out=out)  # type: ignore[call-arg]  # torch's stub lacks `out`
