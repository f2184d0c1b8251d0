"""Exact search at the price of a float32 product: embeddings and ids in, the rank of each query's best positive out.

Q: queries.  M: items to search.  D: width.  E: entries of ids, more than rows where a row has several.

Ranks are those of float64 scores (`retrieval` states the rule). A float32 score differs from the exact one by at most
`_error`, so an item whose float32 score is further than that from the best positive's is on the right side of it; the
few others are scored again in float64. One product serves both directions. Everything happens on the CPU.
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
from xmodal.metrics.positive_pairs import Ids, entries, positive_pairs

TIE = 1e-12  # relative; float64 sums of 10^3 products agree to about 1e-14, float32 embeddings differ by more than 1e-8
QUERY_TILE = 512
ITEM_TILE = 2048  # 4 MiB of float32 scores: numpy compares them at the speed of the cache
PAIR_BYTES = 32 << 20  # memory for rows that are scored in pairs, at a time
CROWDED = 1 / 64  # share of a tile's scores within the error: above it a float64 product is cheaper than pairs
UNIT = 2.0**-24  # half the spacing of float32 numbers below 1
SMALLEST = 2.0**-125  # a float32 product below half of this may be taken for zero


def ranks(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "M D"],
    query_id: Int64[Tensor, "Q"] | Ids,
    item_id: Int64[Tensor, "M"] | Ids,
) -> Int64[Tensor, "Q"]:
    """The rank of each query's best positive, 1 is best.

    An item is a positive of a query with which it shares an identity. XmodalError when an embedding is not finite (its
    comparisons would all be false, and its rank 1) or a query has no positive.
    """
    u, v = _rows(queries, "query"), _rows(items, "item")
    search = _Search(u, v, entries(query_id), entries(item_id))
    _compare(u, v, search, None)
    return torch.from_numpy(search.before + 1)


def ranks_both_ways(
    u: Float[Tensor, "Q D"],
    v: Float[Tensor, "M D"],
    u_id: Int64[Tensor, "Q"] | Ids,
    v_id: Int64[Tensor, "M"] | Ids,
) -> tuple[Int64[Tensor, "Q"], Int64[Tensor, "M"]]:
    """(`ranks` of u searching v, of v searching u), from one product of the two."""
    rows, columns = _rows(u, "query"), _rows(v, "item")
    of_u, of_v = entries(u_id), entries(v_id)
    forth, back = _Search(rows, columns, of_u, of_v), _Search(columns, rows, of_v, of_u)
    _compare(rows, columns, forth, back)
    return torch.from_numpy(forth.before + 1), torch.from_numpy(back.before + 1)


class _Search:
    """One direction: the best positive of each query, and how many items are known to stand before it."""

    def __init__(self, queries: np.ndarray, items: np.ndarray, query_ids: Ids, item_ids: Ids) -> None:
        size, largest = _lengths(queries), _lengths(items).max()
        self.queries, self.items = queries, items
        self.tie = TIE * size * largest  # scores closer than this are equal
        self.best, self.place = _best_positives(queries, items, query_ids, item_ids, self.tie)
        width = queries.shape[1]
        margin = self.tie + _error(width) * size * largest + width * SMALLEST
        self.low, self.high = -_up(margin - self.best), _up(self.best + margin)
        self.before = np.zeros(len(queries), np.int64)
        self._lock = threading.Lock()

    def count(self, scores: np.ndarray, queries: slice, items: slice, axis: int) -> None:
        """Enter a tile, queries along the other axis than `axis`: count what is surely higher, score again what may be.

        `scores` is float32 [q, m] for axis 1, [m, q] for axis 0.
        """
        shape = (-1, 1) if axis else (1, -1)
        higher = _above(scores, self.high[queries].reshape(shape), strictly=True)
        unsure = _above(scores, self.low[queries].reshape(shape), strictly=False) ^ higher
        places = _places(unsure)
        query, item = places if axis else places[::-1]
        if len(query) > CROWDED * scores.size:
            counts = self._ahead_in_tile(queries, items)
        else:
            counts = _sum(higher, axis)[: queries.stop - queries.start]
            ahead = self._ahead(query + queries.start, item + items.start)
            counts += np.bincount(query, weights=ahead, minlength=len(counts)).astype(np.int64)
        with self._lock:
            self.before[queries] += counts

    def _ahead(self, query: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each item stands before the query's best positive: bool [P]."""
        ahead = np.empty(len(query), bool)
        for part in tiles(len(query), _pairs_at_once(self.queries.shape[1])):
            q, i = query[part], item[part]
            margin = _scores(self.queries, self.items, q, i) - self.best[q]
            ahead[part] = (margin > self.tie[q]) | ((margin >= -self.tie[q]) & (i < self.place[q]))
        return ahead

    def _ahead_in_tile(self, queries: slice, items: slice) -> np.ndarray:
        """The same for all pairs of a tile, counted for each query: int64 [q]."""
        margin = self.queries[queries].astype(np.float64) @ self.items[items].astype(np.float64).T
        margin -= self.best[queries, None]
        tie, place = self.tie[queries, None], self.place[queries, None]
        return ((margin > tie) | ((margin >= -tie) & (np.arange(items.start, items.stop) < place))).sum(1)


def _compare(u: np.ndarray, v: np.ndarray, forth: _Search, back: _Search | None) -> None:
    """Show every tile of scores to both searches; as many tiles at once as torch has threads, one BLAS thread each."""

    def row_of_tiles(rows: slice) -> None:
        left = u[rows].astype(np.float32, copy=False)
        memory = np.empty(len(left) * ITEM_TILE, np.float32)  # the same for all tiles: fresh pages cost time
        for columns in tiles(len(v), ITEM_TILE):
            right = v[columns].astype(np.float32, copy=False)
            scores = memory[: len(left) * len(right)].reshape(len(left), len(right))
            np.matmul(left, right.T, out=scores)
            forth.count(scores, rows, columns, axis=1)
            if back is not None:
                back.count(scores, columns, rows, axis=0)

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(row_of_tiles, tiles(len(u), QUERY_TILE)):
            pass


def _error(width: int) -> float:
    """Most by which a float32 score differs from the exact one, for vectors of length 1.

    Sums of `width` products in any order, fused or not: Higham 2002, §3.1. The rest is for rounding the vectors, if
    they were float64, and the thresholds.
    """
    terms = width + 8
    return terms * UNIT / (1 - terms * UNIT)


def _up(x: np.ndarray) -> np.ndarray:
    """The next float32 above."""
    return np.nextafter(x.astype(np.float32), np.float32(np.inf))


def _above(scores: np.ndarray, threshold: np.ndarray, *, strictly: bool) -> np.ndarray:
    """bool [rows, columns filled up with false to a multiple of 8], so that eight can be handled as one number."""
    rows, columns = scores.shape
    mask = np.empty((rows, -(-columns // 8) * 8), bool)
    mask[:, columns:] = False
    (np.greater if strictly else np.greater_equal)(scores, threshold, out=mask[:, :columns])
    return mask


def _sum(mask: np.ndarray, axis: int) -> np.ndarray:
    """int64 counts along an axis, eight columns at a time: 255 of their bytes can be added before one overflows."""
    eights = mask.view(np.uint64)
    sums = [
        (eights[:, part] if axis else eights[part]).sum(axis, keepdims=True).view(np.uint8).astype(np.int64)
        for part in tiles(eights.shape[axis], 255)
    ]
    total = np.sum(sums, axis=0)
    return total.sum(1) if axis else total[0]


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of what is true, where little is."""
    eight = np.flatnonzero(mask.view(np.uint64))
    which, column = np.nonzero(mask.reshape(-1, 8)[eight])
    return np.divmod(eight[which] * 8 + column, mask.shape[1])


def _best_positives(
    queries: np.ndarray, items: np.ndarray, query_ids: Ids, item_ids: Ids, tie: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each query's highest score among its positives float64 [Q], and the first place that has it int64 [Q]."""
    best = np.full(len(queries), -np.inf)
    place = np.full(len(queries), len(items))
    at_once = _pairs_at_once(queries.shape[1])
    for query, item in positive_pairs(query_ids, item_ids, at_once):
        np.maximum.at(best, query, _scores(queries, items, query, item))
    _check_all_found(best, query_ids)
    for query, item in positive_pairs(query_ids, item_ids, at_once):
        is_best = _scores(queries, items, query, item) >= (best - tie)[query]
        np.minimum.at(place, query[is_best], item[is_best])
    return best, place


def _scores(queries: np.ndarray, items: np.ndarray, query: np.ndarray, item: np.ndarray) -> np.ndarray:
    return (queries[query].astype(np.float64) * items[item].astype(np.float64)).sum(axis=1)


def _pairs_at_once(width: int) -> int:
    return max(1, PAIR_BYTES // (32 * width))


def tiles(total: int, size: int) -> Iterator[slice]:
    """`range(total)` in runs of `size`."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _lengths(rows: np.ndarray) -> np.ndarray:
    """The length of each row, float64 [R]."""
    parts = [np.sqrt(np.square(rows[part], dtype=np.float64).sum(1)) for part in tiles(len(rows), 4096)]
    return np.concatenate(parts)


def _rows(embeddings: Tensor, name: str) -> np.ndarray:
    """The same numbers as float32, or as float64 where they are; times one power of two where they are extreme."""
    if len(embeddings) == 0:
        raise XmodalError(f"retrieval without a single {name}: no row of the corpus was valid")
    given = embeddings.detach().cpu()
    rows = (given if given.dtype == torch.float64 else given.float()).numpy()
    lengths = _lengths(rows)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise XmodalError(f"the embedding of {name} {bad[0]} is not finite ({len(bad)} such rows)")
    largest = float(lengths.max())
    if largest == 0 or 1e-3 < largest < 1e3:
        return rows
    return rows.astype(np.float64) * 2.0 ** -math.frexp(largest)[1]  # float32 products cannot overflow or vanish


def _check_all_found(best: np.ndarray, query_ids: Ids) -> None:
    alone = np.flatnonzero(np.isneginf(best))
    if len(alone):
        named = query_ids.id[query_ids.owner == alone[0]].tolist()
        raise XmodalError(
            f"query {alone[0]} (id {', '.join(map(str, named)) or 'none'}) has no item with its id "
            f"({len(alone)} such queries): leave them out"
        )
