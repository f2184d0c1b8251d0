"""Exact retrieval ranks at the cost of a float32 matrix product.

Q: queries.  M: items to search.  D: width.  E: entries of ids, more than rows if a row has several.

Ranks are those of float64 scores (`retrieval` states the rule). A float32 score differs from the exact one by at most
`_float32_error`, so an item whose float32 score is further from the best positive's is ranked correctly by it; the few
others are scored again in float64. One product serves both directions. Everything runs on the CPU.
"""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int64
from threadpoolctl import threadpool_limits
from torch import Tensor

from xmodal.errors import XmodalError
from xmodal.metrics.positive_pairs import RowIds, as_row_ids, positive_pairs

TIE = 1e-12  # relative; float64 sums of 10^3 products agree to about 1e-14, float32 embeddings differ by more than 1e-8
QUERY_TILE = 512
ITEM_TILE = 2048  # 4 MiB of float32 scores: numpy compares them at the speed of the cache
PAIR_BYTES = 32 << 20  # memory for rows that are scored in pairs, at a time
DENSE_SHARE = 1 / 64  # if more of a tile's scores lie within the error, a float64 product is cheaper than pairs
UNIT = 2.0**-24  # half the spacing of float32 numbers below 1
SMALLEST = 2.0**-125  # a float32 product below half of this may be rounded to zero


def ranks(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "M D"],
    query_id: Int64[Tensor, "Q"] | RowIds,
    item_id: Int64[Tensor, "M"] | RowIds,
) -> Int64[Tensor, "Q"]:
    """Return the rank of each query's best positive; 1 is best.

    An item is a positive of a query with which it shares an identity. XmodalError if an embedding is not finite (its
    comparisons would all be false, and its rank 1) or a query has no positive.
    """
    u, v = _finite_rows(queries, "query"), _finite_rows(items, "item")
    search = _Search(u, v, as_row_ids(query_id), as_row_ids(item_id))
    _compare(u, v, search, None)
    return torch.from_numpy(search.before + 1)


def ranks_both_ways(
    u: Float[Tensor, "Q D"],
    v: Float[Tensor, "M D"],
    u_id: Int64[Tensor, "Q"] | RowIds,
    v_id: Int64[Tensor, "M"] | RowIds,
) -> tuple[Int64[Tensor, "Q"], Int64[Tensor, "M"]]:
    """Return (`ranks` of u searching v, of v searching u), from one product of the two."""
    rows, columns = _finite_rows(u, "query"), _finite_rows(v, "item")
    u_ids, v_ids = as_row_ids(u_id), as_row_ids(v_id)
    of_u, of_v = _Search(rows, columns, u_ids, v_ids), _Search(columns, rows, v_ids, u_ids)
    _compare(rows, columns, of_u, of_v)
    return torch.from_numpy(of_u.before + 1), torch.from_numpy(of_v.before + 1)


class _Search:
    """One direction: the best positive of each query, and the number of items counted so far that rank before it."""

    def __init__(self, queries: np.ndarray, items: np.ndarray, query_ids: RowIds, item_ids: RowIds) -> None:
        size, largest = _row_lengths(queries), _row_lengths(items).max()
        self.queries, self.items = queries, items
        self.tie = TIE * size * largest  # scores that differ by less are equal
        self.best, self.place = _best_positives(queries, items, query_ids, item_ids, self.tie)
        width = queries.shape[1]
        margin = self.tie + _float32_error(width) * size * largest + width * SMALLEST
        self.low, self.high = -_next_float32(margin - self.best), _next_float32(self.best + margin)
        self.before = np.zeros(len(queries), np.int64)
        self._lock = threading.Lock()

    def count(self, scores: np.ndarray, queries: slice, items: slice, axis: int) -> None:
        """Count the items of a tile that rank before the best positives; undecided scores are computed again.

        Undecided are float32 scores within the rounding error. Queries are along the other axis than `axis`: `scores`
        is float32 [q, m] for axis 1, [m, q] for axis 0.
        """
        shape = (-1, 1) if axis else (1, -1)
        higher = _above(scores, self.high[queries].reshape(shape), strictly=True)
        undecided = _above(scores, self.low[queries].reshape(shape), strictly=False) ^ higher
        positions = _true_positions(undecided)
        query, item = positions if axis else positions[::-1]
        if len(query) > DENSE_SHARE * scores.size:
            counts = self._ahead_in_tile(queries, items)
        else:
            counts = _count_true(higher, axis)[: queries.stop - queries.start]
            ahead = self._ahead(query + queries.start, item + items.start)
            counts += np.bincount(query, weights=ahead, minlength=len(counts)).astype(np.int64)
        with self._lock:
            self.before[queries] += counts

    def _ahead(self, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Return whether each item ranks before the query's best positive: bool [P]."""
        ahead = np.empty(len(query), bool)
        for part in slices(len(query), _pairs_per_chunk(self.queries.shape[1])):
            q, i = query[part], item[part]
            margin = _scores(self.queries, self.items, q, i) - self.best[q]
            ahead[part] = (margin > self.tie[q]) | ((margin >= -self.tie[q]) & (i < self.place[q]))
        return ahead

    def _ahead_in_tile(self, queries: slice, items: slice) -> np.ndarray:
        """Count the items before the best positive, for all pairs of a tile: int64 [q]."""
        margin = self.queries[queries].astype(np.float64) @ self.items[items].astype(np.float64).T
        margin -= self.best[queries, None]
        tie, place = self.tie[queries, None], self.place[queries, None]
        ahead = (margin > tie) | ((margin >= -tie) & (np.arange(items.start, items.stop) < place))
        counts: np.ndarray = ahead.sum(1)
        return counts


def _compare(u: np.ndarray, v: np.ndarray, of_u: _Search, of_v: _Search | None) -> None:
    """Pass every tile of scores to both searches; as many tiles at once as torch has threads, one BLAS thread each."""

    def row_of_tiles(rows: slice) -> None:
        queries = u[rows].astype(np.float32, copy=False)
        buffer = np.empty(len(queries) * ITEM_TILE, np.float32)  # the same for all tiles: fresh pages cost time
        for columns in slices(len(v), ITEM_TILE):
            items = v[columns].astype(np.float32, copy=False)
            scores = buffer[: len(queries) * len(items)].reshape(len(queries), len(items))
            np.matmul(queries, items.T, out=scores)
            of_u.count(scores, rows, columns, axis=1)
            if of_v is not None:
                of_v.count(scores, columns, rows, axis=0)

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(row_of_tiles, slices(len(u), QUERY_TILE)):
            pass


def _float32_error(width: int) -> float:
    """Return the largest difference of a float32 score from the exact one, for vectors of length 1.

    Sums of `width` products in any order, fused or not: Higham 2002, §3.1. The other terms are for rounding the
    vectors, if they were float64, and the thresholds.
    """
    terms = width + 8
    return terms * UNIT / (1 - terms * UNIT)


def _next_float32(x: np.ndarray) -> np.ndarray:
    """Return the next float32 above."""
    above: np.ndarray = np.nextafter(x.astype(np.float32), np.float32(np.inf))
    return above


def _above(scores: np.ndarray, threshold: np.ndarray, *, strictly: bool) -> np.ndarray:
    """Compare with a threshold; columns are padded with false to a multiple of 8, to read eight as one number."""
    rows, columns = scores.shape
    mask = np.empty((rows, -(-columns // 8) * 8), bool)
    mask[:, columns:] = False
    (np.greater if strictly else np.greater_equal)(scores, threshold, out=mask[:, :columns])
    return mask


def _count_true(mask: np.ndarray, axis: int) -> np.ndarray:
    """Count along an axis, int64, eight columns at a time: 255 of their bytes can be added before one overflows."""
    words = mask.view(np.uint64)
    sums = [
        (words[:, part] if axis else words[part]).sum(axis, keepdims=True).view(np.uint8).astype(np.int64)
        for part in slices(words.shape[axis], 255)
    ]
    total = np.sum(sums, axis=0)
    counts: np.ndarray = total.sum(1) if axis else total[0]
    return counts


def _true_positions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of the true entries of a sparse mask."""
    word = np.flatnonzero(mask.view(np.uint64))
    index, column = np.nonzero(mask.reshape(-1, 8)[word])
    return np.divmod(word[index] * 8 + column, mask.shape[1])


def _best_positives(
    queries: np.ndarray, items: np.ndarray, query_ids: RowIds, item_ids: RowIds, tie: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's highest score among its positives, float64 [Q], and the first item that has it, int64 [Q]."""
    best = np.full(len(queries), -np.inf)
    place = np.full(len(queries), len(items))
    at_once = _pairs_per_chunk(queries.shape[1])
    for query, item in positive_pairs(query_ids, item_ids, at_once):
        np.maximum.at(best, query, _scores(queries, items, query, item))
    _check_positives(best, query_ids)
    for query, item in positive_pairs(query_ids, item_ids, at_once):
        is_best = _scores(queries, items, query, item) >= (best - tie)[query]
        np.minimum.at(place, query[is_best], item[is_best])
    return best, place


def _scores(queries: np.ndarray, items: np.ndarray, query: np.ndarray, item: np.ndarray) -> np.ndarray:
    scores: np.ndarray = (queries[query].astype(np.float64) * items[item].astype(np.float64)).sum(axis=1)
    return scores


def _pairs_per_chunk(width: int) -> int:
    return max(1, PAIR_BYTES // (32 * width))


def slices(total: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` that cover `range(total)`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _row_lengths(rows: np.ndarray) -> np.ndarray:
    """Return the length of each row, float64 [R]."""
    parts = [np.sqrt(np.square(rows[part], dtype=np.float64).sum(1)) for part in slices(len(rows), 4096)]
    return np.concatenate(parts)


def _finite_rows(embeddings: Tensor, name: str) -> np.ndarray:
    """Return the rows as float32 or float64, scaled by one power of two if they are extreme.

    XmodalError if there are none, or for rows that are not finite.
    """
    if len(embeddings) == 0:
        raise XmodalError(f"retrieval without a single {name}: no row of the corpus was valid")
    tensor = embeddings.detach().cpu()
    rows = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    lengths = _row_lengths(rows)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise XmodalError(f"the embedding of {name} {bad[0]} is not finite ({len(bad)} such rows)")
    largest = float(lengths.max())
    if largest == 0 or 1e-3 < largest < 1e3:
        return rows
    return rows.astype(np.float64) * 2.0 ** -math.frexp(largest)[1]  # float32 products cannot overflow or vanish


def _check_positives(best: np.ndarray, query_ids: RowIds) -> None:
    """Raise XmodalError for a query without a positive."""
    lacking = np.flatnonzero(np.isneginf(best))
    if len(lacking):
        ids = query_ids.id[query_ids.owner == lacking[0]].tolist()
        raise XmodalError(
            f"query {lacking[0]} (id {', '.join(map(str, ids)) or 'none'}) has no item with its id "
            f"({len(lacking)} such queries): leave them out"
        )
