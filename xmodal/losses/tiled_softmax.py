"""InfoNCE and its gradients over a tiled similarity matrix."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.ranks import Group, world_size
from xmodal.losses.pairs import GatheredPairs, gather_pairs
from xmodal.losses.similarity_tiles import FeatureGradients, iterate_tiles, logits_dtype


class RunningLogSumExp:
    """Running log-sum-exps of a vector of sums, stored as maximum and sum of exp(x - maximum)."""

    def __init__(self, length: int, like: Tensor) -> None:
        # the lowest finite number, not -inf: inf - inf would be NaN where nothing was added yet
        self.maximum = like.new_full((length,), torch.finfo(like.dtype).min)
        self.total = like.new_zeros(length)

    def add(self, positions: slice, logits: Tensor, dim: int, scratch: Tensor) -> None:
        """Add the entries of `logits` along `dim` to the sums at `positions`; -inf adds nothing."""
        maximum = torch.maximum(self.maximum[positions], logits.amax(dim))
        exponentials = torch.sub(logits, maximum.unsqueeze(dim), out=scratch).exp_()
        self.total[positions].mul_((self.maximum[positions] - maximum).exp_()).add_(exponentials.sum(dim))
        self.maximum[positions] = maximum

    def over_ranks(self, group: Group) -> "RunningLogSumExp":
        """Combine the sums of all ranks in place, by two all-reduces of the vector, and return self."""
        if world_size(group) > 1:
            previous = self.maximum.clone()
            dist.all_reduce(self.maximum, op=dist.ReduceOp.MAX, group=group)
            self.total.mul_(previous.sub_(self.maximum).exp_())
            dist.all_reduce(self.total, group=group)
        return self

    def value(self) -> Tensor:
        """Return the log-sum-exps."""
        return self.maximum + self.total.log()


class TiledSoftmaxLoss(torch.autograd.Function):
    """InfoNCE as an autograd function that stores the features and two vectors; see `xmodal.losses.contrastive`."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        v: Tensor,
        log_scale: Tensor,
        valid: Tensor | None,
        ids: Tensor | None,
        group: Group,
        tile: int | None,
    ) -> Tensor:
        pairs = gather_pairs(u, v, valid, ids, group)
        ctx.rows, ctx.duplicates, ctx.group, ctx.tile = pairs.rows, pairs.duplicates, group, tile
        ctx.dtypes = u.dtype, v.dtype, log_scale.dtype
        with torch.autocast(u.device.type, enabled=False):
            scale = log_scale.to(logits_dtype(u, v)).exp()
            positives, row_sums, column_sums = _sums(pairs, scale, tile)
            lse_rows, lse_columns = row_sums.value(), column_sums.over_ranks(group).value()
            loss = (lse_rows - positives).sum() + (lse_columns[pairs.rows.local_columns] - positives).sum()
        ctx.save_for_backward(pairs.u, pairs.v, scale, lse_rows, lse_columns)
        return loss * (pairs.rows.share / 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, v, scale, lse_rows, lse_columns = ctx.saved_tensors
        pairs = GatheredPairs(u=u, v=v, rows=ctx.rows, duplicates=ctx.duplicates)
        with torch.autocast(u.device.type, enabled=False):
            sums = FeatureGradients(pairs, scale, ctx.needs_input_grad)
            for tile in iterate_tiles(pairs, scale, ctx.tile):
                by_row = torch.sub(tile.logits, lse_rows[tile.rows, None], out=tile.scratch).exp_()
                by_column = tile.logits.sub_(lse_columns[tile.columns]).exp_()
                dlogits = by_column.add_(by_row)
                tile.positives.sub_(2)
                sums.add(tile, dlogits)
            gradients = sums.finish(gradient * (pairs.rows.share / 2), ctx.group)
        typed = (None if g is None else g.to(t) for g, t in zip(gradients, ctx.dtypes, strict=True))
        return *typed, None, None, None, None


tiled_softmax_loss: Callable[..., Tensor] = TiledSoftmaxLoss.apply


def _sums(pairs: GatheredPairs, scale: Tensor, size: int | None) -> tuple[Tensor, RunningLogSumExp, RunningLogSumExp]:
    """Return the logits of the true pairs [b] and the log-sum-exps of rows [b] and columns [n].

    Those of columns are over this rank's rows only.
    """
    positives = scale.new_empty(len(pairs.u))
    row_sums, column_sums = RunningLogSumExp(len(pairs.u), scale), RunningLogSumExp(len(pairs.v), scale)
    for tile in iterate_tiles(pairs, scale, size):
        positives[tile.positive_rows] = tile.positives
        row_sums.add(tile.rows, tile.logits, 1, tile.scratch)
        column_sums.add(tile.columns, tile.logits, 0, tile.scratch)
    return positives, row_sums, column_sums
