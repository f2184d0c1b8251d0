"""The softmax loss over a tiled similarity matrix: features in, this rank's share of the loss and its gradients out."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.ranks import Group, world_size
from xmodal.losses.pairs import Pairs, join
from xmodal.losses.similarity_tiles import Gradients, logits_dtype, tiles


class LogSumExp:
    """Running log-sum-exp of a vector of sums, as maximum and sum of exp(x - maximum)."""

    def __init__(self, length: int, like: Tensor) -> None:
        # the lowest finite number, not -inf: inf - inf has no value where nothing was added yet
        self.maximum = like.new_full((length,), torch.finfo(like.dtype).min)
        self.total = like.new_zeros(length)

    def add(self, where: slice, logits: Tensor, dim: int, scratch: Tensor) -> None:
        """Adds the entries of `logits` along `dim` to the sums at `where`; -inf adds nothing."""
        maximum = torch.maximum(self.maximum[where], logits.amax(dim))
        exponentials = torch.sub(logits, maximum.unsqueeze(dim), out=scratch).exp_()
        self.total[where].mul_((self.maximum[where] - maximum).exp_()).add_(exponentials.sum(dim))
        self.maximum[where] = maximum

    def over_ranks(self, group: Group) -> "LogSumExp":
        """The sums over all ranks, by two all-reduces of the vector."""
        if world_size(group) > 1:
            before = self.maximum.clone()
            dist.all_reduce(self.maximum, op=dist.ReduceOp.MAX, group=group)
            self.total.mul_(before.sub_(self.maximum).exp_())
            dist.all_reduce(self.total, group=group)
        return self

    def value(self) -> Tensor:
        return self.maximum + self.total.log()


class Softmax(torch.autograd.Function):
    """InfoNCE; see `xmodal.losses.contrastive.info_nce`. Keeps the features and two vectors of log-sum-exps."""

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
        pairs = join(u, v, valid, ids, group)
        ctx.rows, ctx.duplicates, ctx.group, ctx.tile = pairs.rows, pairs.duplicates, group, tile
        ctx.dtypes = u.dtype, v.dtype, log_scale.dtype
        with torch.autocast(u.device.type, enabled=False):
            scale = log_scale.to(logits_dtype(u, v)).exp()
            own, of_rows, of_columns = _sums(pairs, scale, tile)
            lse_rows, lse_columns = of_rows.value(), of_columns.over_ranks(group).value()
            loss = (lse_rows - own).sum() + (lse_columns[pairs.rows.own_columns] - own).sum()
        ctx.save_for_backward(pairs.u, pairs.v, scale, lse_rows, lse_columns)
        return loss * (pairs.rows.share / 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, v, scale, lse_rows, lse_columns = ctx.saved_tensors
        pairs = Pairs(u=u, v=v, rows=ctx.rows, duplicates=ctx.duplicates)
        with torch.autocast(u.device.type, enabled=False):
            sums = Gradients(pairs, scale, ctx.needs_input_grad)
            for tile in tiles(pairs, scale, ctx.tile):
                by_row = torch.sub(tile.logits, lse_rows[tile.rows, None], out=tile.scratch).exp_()
                by_column = tile.logits.sub_(lse_columns[tile.columns]).exp_()
                dlogits = by_column.add_(by_row)
                tile.own.sub_(2)
                sums.add(tile, dlogits)
            gradients = sums.finish(gradient * (pairs.rows.share / 2), ctx.group)
        typed = (None if g is None else g.to(t) for g, t in zip(gradients, ctx.dtypes, strict=True))
        return *typed, None, None, None, None


def _sums(pairs: Pairs, scale: Tensor, size: int | None) -> tuple[Tensor, LogSumExp, LogSumExp]:
    """The logits of the true pairs [b], and the log-sum-exps of rows [b] and, over this rank's rows, of columns [n]."""
    own = scale.new_empty(len(pairs.u))
    of_rows, of_columns = LogSumExp(len(pairs.u), scale), LogSumExp(len(pairs.v), scale)
    for tile in tiles(pairs, scale, size):
        own[tile.own_rows] = tile.own
        of_rows.add(tile.rows, tile.logits, 1, tile.scratch)
        of_columns.add(tile.columns, tile.logits, 0, tile.scratch)
    return own, of_rows, of_columns
