"""The pairs that take part in a contrastive loss: valid rows gathered over all ranks, with their duplicates.

B rows on this rank, W * B over all ranks. Of these, b and n are valid. Rows that are not valid are removed before any
similarity is computed, so that no tile handles masks and nothing in a masked row (not even NaN) reaches a loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.distributed.ranks import Group, current_rank, gather_rows, reduce_scatter_sum, world_size


@dataclass(frozen=True, kw_only=True)
class ValidRows:
    """The positions of the valid rows on this rank and over all ranks.

    `counts` are the numbers of valid rows of each rank. `local` [b] are the valid positions among this rank's B rows
    and `everywhere` [n] those among all W * B; None means all of them.
    """

    batch: int
    rank: int
    counts: tuple[int, ...]
    local: Tensor | None
    everywhere: Tensor | None

    @property
    def local_columns(self) -> slice:
        """Return this rank's part of the columns of the similarity matrix, which are the n valid rows of all ranks."""
        first = sum(self.counts[: self.rank])
        return slice(first, first + self.counts[self.rank])

    @property
    def share(self) -> float:
        """Return W / n, the weight of a row's loss: the mean of the ranks' sums is then that over all valid rows."""
        return len(self.counts) / max(sum(self.counts), 1)

    def take_local(self, x: Tensor) -> Tensor:
        """Select the valid rows of this rank: [B, ...] to [b, ...]."""
        return x if self.local is None else x.index_select(0, self.local)

    def take_everywhere(self, x: Tensor) -> Tensor:
        """Select the valid rows of all ranks: [W * B, ...] to [n, ...]."""
        return x if self.everywhere is None else x.index_select(0, self.everywhere)

    def restore_local(self, x: Tensor) -> Tensor:
        """Put valid rows back in place, [b, D] to [B, D], with zeros in the others."""
        return _scatter_rows(x, self.local, self.batch)

    def reduce_to_local(self, x: Tensor, group: Group) -> Tensor:
        """Sum [n, D] over ranks and return this rank's rows [B, D], with zeros in rows that are not valid."""
        return reduce_scatter_sum(_scatter_rows(x, self.everywhere, len(self.counts) * self.batch), group)


@dataclass(frozen=True)
class Duplicates:
    """Labels of this rank's rows [J, b] and of the columns [J, n]; rows with equal labels are not negatives."""

    rows: Tensor
    columns: Tensor

    def mark(self, rows: slice, columns: slice, out: Tensor, scratch: Tensor) -> Tensor:
        """Fill `out` with whether a row and a column of the tile share any of the J labels, and return it."""
        torch.eq(self.rows[0, rows, None], self.columns[0, None, columns], out=out)
        for row_labels, column_labels in zip(self.rows[1:], self.columns[1:], strict=True):
            torch.eq(row_labels[rows, None], column_labels[None, columns], out=scratch)
            out.logical_or_(scratch)
        return out


@dataclass(frozen=True, kw_only=True)
class GatheredPairs:
    """The features of a contrastive loss: `u` [b, D] of this rank's valid rows, `v` [n, D] of all ranks' valid rows."""

    u: Tensor
    v: Tensor
    rows: ValidRows
    duplicates: Duplicates | None


def gather_pairs(u: Tensor, v: Tensor, valid: Tensor | None, ids: Tensor | None, group: Group) -> GatheredPairs:
    """Gather `v` and the masks over the ranks and remove the rows that are not valid. Collective calls."""
    check_equal_shapes(u, valid, ids, group)
    rows = select_valid(valid, len(u), group)
    duplicates = label_duplicates(ids, rows, group)
    return GatheredPairs(
        u=rows.take_local(u), v=rows.take_everywhere(gather_rows(v, group)), rows=rows, duplicates=duplicates
    )


def select_valid(valid: Tensor | None, batch: int, group: Group) -> ValidRows:
    """Find the valid rows of all ranks; waits for the device if `valid` is given."""
    world, rank = world_size(group), current_rank(group)
    if valid is None:
        return ValidRows(batch=batch, rank=rank, counts=(batch,) * world, local=None, everywhere=None)
    valid_every = gather_rows(valid, group)
    counts = tuple(valid_every.view(world, batch).sum(1).tolist())
    local = None if counts[rank] == batch else valid.nonzero().squeeze(1)
    everywhere = None if sum(counts) == world * batch else valid_every.nonzero().squeeze(1)
    return ValidRows(batch=batch, rank=rank, counts=counts, local=local, everywhere=everywhere)


def label_duplicates(ids: Tensor | None, rows: ValidRows, group: Group) -> Duplicates | None:
    """Return the labels of `ids` ([B] or [B, J]; -1 equals nothing); None if no two valid rows share an id."""
    if ids is None:
        return None
    all_ids = rows.take_everywhere(gather_rows(ids if ids.ndim == 2 else ids[:, None], group))
    labels = [_labels(column) for column in all_ids.unbind(1)]
    shared = [pair for pair in labels if pair is not None]
    if not shared:
        return None
    of_rows, of_columns = (torch.stack(side) for side in zip(*shared, strict=True))
    return Duplicates(of_rows[:, rows.local_columns], of_columns)


def check_equal_shapes(u: Tensor, valid: Tensor | None, ids: Tensor | None, group: Group) -> None:
    """Raise ValueError on every rank unless all ranks call with the same shapes and the same optional arguments.

    Costs one collective of four integers (and a wait for the device). Without it a rank with fewer rows would block the
    gather or, worse, shift the pairs of all ranks.
    """
    if world_size(group) == 1:
        return
    id_columns = 0 if ids is None else ids.numel() // max(len(ids), 1)
    own_shape = torch.tensor([[*u.shape, valid is not None, id_columns]], device=u.device)
    shapes = gather_rows(own_shape, group).tolist()
    if any(shape != shapes[0] for shape in shapes):
        listed = "; ".join(f"rank {r}: {b} x {d}, valid {bool(m)}, {j} ids" for r, (b, d, m, j) in enumerate(shapes))
        raise ValueError(
            f"every rank must hold equally many rows (pad them and mask the padding with `valid`): {listed}"
        )


def _labels(ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return 32-bit labels of 64-bit ids, half the width to compare: for rows [n] and columns [n].

    None if all ids differ.
    """
    values, labels = torch.unique(ids, return_inverse=True)
    if len(values) == len(ids):
        return None
    labels, never = labels.int(), ids == -1
    return labels.masked_fill(never, -1), labels.masked_fill(never, -2)


def _scatter_rows(x: Tensor, positions: Tensor | None, length: int) -> Tensor:
    """Write rows to their positions in a tensor of `length` rows of zeros; None means they already are in place."""
    if positions is None:
        return x
    return x.new_zeros(length, *x.shape[1:]).index_copy_(0, positions, x)
