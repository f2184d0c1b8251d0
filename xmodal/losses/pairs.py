"""Feature rows with masks and ids go in; the pairs that take part in the loss, over all ranks, come out.

B rows on this rank, W * B over all ranks. Of these, b and n are valid: rows that are not are left out before any
similarity is computed, so that no tile knows about masks and nothing in a masked row (not even NaN) reaches a loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.distributed.ranks import Group, gather_rows, rank_in, scatter_sum, world_size


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows take part and where they stand.

    `counts` are the numbers of valid rows of each rank. `own` [b] are the valid positions among this rank's B rows and
    `every` [n] those among all W * B; None is all of them.
    """

    batch: int
    rank: int
    counts: tuple[int, ...]
    own: Tensor | None
    every: Tensor | None

    @property
    def own_columns(self) -> slice:
        """This rank's part of the columns of the similarity matrix, which are the n valid rows of all ranks."""
        first = sum(self.counts[: self.rank])
        return slice(first, first + self.counts[self.rank])

    @property
    def share(self) -> float:
        """W / n: the weight of a row's loss, so that the mean of the ranks' sums is the mean over all valid rows."""
        return len(self.counts) / max(sum(self.counts), 1)

    def take_own(self, x: Tensor) -> Tensor:
        """[B, ...] to [b, ...]."""
        return x if self.own is None else x.index_select(0, self.own)

    def take_every(self, x: Tensor) -> Tensor:
        """[W * B, ...] to [n, ...]."""
        return x if self.every is None else x.index_select(0, self.every)

    def return_own(self, x: Tensor) -> Tensor:
        """[b, D] to [B, D], zeros in the rows left out."""
        return _spread(x, self.own, self.batch)

    def return_every(self, x: Tensor, group: Group) -> Tensor:
        """[n, D] on every rank to the sum over ranks of this rank's rows [B, D], zeros in the rows left out."""
        return scatter_sum(_spread(x, self.every, len(self.counts) * self.batch), group)


@dataclass(frozen=True)
class Duplicates:
    """Labels of this rank's rows, [J, b], and of the columns, [J, n]: equal labels mark no negatives of each other."""

    rows: Tensor
    columns: Tensor

    def mark(self, rows: slice, columns: slice, out: Tensor, scratch: Tensor) -> Tensor:
        """`out`, true where a row and a column of the tile share any of the J labels."""
        torch.eq(self.rows[0, rows, None], self.columns[0, None, columns], out=out)
        for row_labels, column_labels in zip(self.rows[1:], self.columns[1:], strict=True):
            torch.eq(row_labels[rows, None], column_labels[None, columns], out=scratch)
            out.logical_or_(scratch)
        return out


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The features that meet: `u` [b, D] of this rank's valid rows, `v` [n, D] of all ranks' valid rows."""

    u: Tensor
    v: Tensor
    rows: Rows
    duplicates: Duplicates | None


def join(u: Tensor, v: Tensor, valid: Tensor | None, ids: Tensor | None, group: Group) -> Pairs:
    """Gathers `v` and the masks over the ranks, and leaves out what is not valid. Collective calls."""
    require_equal_shapes(u, valid, ids, group)
    rows = find_rows(valid, len(u), group)
    duplicates = find_duplicates(ids, rows, group)
    return Pairs(u=rows.take_own(u), v=rows.take_every(gather_rows(v, group)), rows=rows, duplicates=duplicates)


def find_rows(valid: Tensor | None, batch: int, group: Group) -> Rows:
    """Agrees with the other ranks on the rows that take part; waits for the device when `valid` is given."""
    world, rank = world_size(group), rank_in(group)
    if valid is None:
        return Rows(batch=batch, rank=rank, counts=(batch,) * world, own=None, every=None)
    valid_every = gather_rows(valid, group)
    counts = tuple(valid_every.view(world, batch).sum(1).tolist())
    own = None if counts[rank] == batch else valid.nonzero().squeeze(1)
    every = None if sum(counts) == world * batch else valid_every.nonzero().squeeze(1)
    return Rows(batch=batch, rank=rank, counts=counts, own=own, every=every)


def find_duplicates(ids: Tensor | None, rows: Rows, group: Group) -> Duplicates | None:
    """The labels of `ids` ([B] or [B, J]; -1 equals nothing); None when no two valid rows share an id."""
    if ids is None:
        return None
    every = rows.take_every(gather_rows(ids if ids.ndim == 2 else ids[:, None], group))
    labels = [_labels(column) for column in every.unbind(1)]
    shared = [pair for pair in labels if pair is not None]
    if not shared:
        return None
    of_rows, of_columns = (torch.stack(side) for side in zip(*shared, strict=True))
    return Duplicates(of_rows[:, rows.own_columns], of_columns)


def require_equal_shapes(u: Tensor, valid: Tensor | None, ids: Tensor | None, group: Group) -> None:
    """Raises ValueError, on every rank, unless all ranks call with the same shapes and the same optional arguments.

    Costs one collective of four integers (and a wait for the device); without it a rank with fewer rows would hang the
    gather or, worse, shift everybody's pairs.
    """
    if world_size(group) == 1:
        return
    id_columns = 0 if ids is None else ids.numel() // max(len(ids), 1)
    mine = torch.tensor([[*u.shape, valid is not None, id_columns]], device=u.device)
    every = gather_rows(mine, group).tolist()
    if any(other != every[0] for other in every):
        listed = "; ".join(f"rank {r}: {b} x {d}, valid {bool(m)}, {j} ids" for r, (b, d, m, j) in enumerate(every))
        raise ValueError(
            f"every rank must hold equally many rows (pad them and mask the padding with `valid`): {listed}"
        )


def _labels(ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """Labels for 64-bit ids, half the width to compare: [n] for rows and [n] for columns; None when all differ."""
    values, labels = torch.unique(ids, return_inverse=True)
    if len(values) == len(ids):
        return None
    labels, never = labels.int(), ids == -1
    return labels.masked_fill(never, -1), labels.masked_fill(never, -2)


def _spread(x: Tensor, positions: Tensor | None, length: int) -> Tensor:
    if positions is None:
        return x
    return x.new_zeros(length, *x.shape[1:]).index_copy_(0, positions, x)
