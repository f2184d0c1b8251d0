"""Retrieval between two embedding spaces: embeddings and ids in, recall@K and median rank beside chance out.

Q: queries.  M: items to search.  D: embedding width.  The score of a pair is the dot product, taken in float64; give
unit-length rows for the cosine. An item is a positive of a query when their ids are equal; a query may have several.

Rank (1 is best): the place of the query's best positive, counting every item with a higher score and, among equal
scores, every other item that stands before it. A model that gives all items the same score thus gets what guessing
gets, not 100 %. Two scores are equal when they differ by less than `TIE` times the lengths of the embeddings: sums of
the same numbers in another order differ by that much.

The conventions are those of CLIP_benchmark (a hit is at least one positive among the first K, averaged over queries),
which itself has no rule for ties.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from xmodal.errors import XmodalError

TIE = 1e-12  # relative; float64 sums of 10^3 products agree to about 1e-14, float32 embeddings differ by more than 1e-8
QUERY_TILE = 512  # a tile of scores is 512 x 4096 float64 = 16 MiB: it stays near the cache, and memory stays flat
ITEM_TILE = 4096
PAIR_BYTES = 64 << 20  # memory for the positives' rows at a time


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How well one side finds the other.

    `recall[k]`: share of queries with a positive among the first k, in [0, 1]. `median_rank`: 1 is best.
    `chance_recall`, `chance_median_rank`: what a random order of the same items gives.
    """

    queries: int
    items: int
    recall: Mapping[int, float]
    median_rank: float
    chance_recall: Mapping[int, float]
    chance_median_rank: float

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """Flat names for a log: `<prefix>/recall@1`, `<prefix>/chance/recall@1`, `<prefix>/median_rank`, ..."""
        metrics = {f"{prefix}/recall@{k}": value for k, value in self.recall.items()}
        metrics |= {f"{prefix}/chance/recall@{k}": value for k, value in self.chance_recall.items()}
        metrics[f"{prefix}/median_rank"] = self.median_rank
        metrics[f"{prefix}/chance/median_rank"] = self.chance_median_rank
        return metrics


def retrieve(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "M D"],
    query_id: Int64[Tensor, "Q"],
    item_id: Int64[Tensor, "M"],
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Search `items` for each of `queries`; exact, in memory that does not grow with Q x M."""
    rank = ranks(queries, items, query_id, item_id).numpy()
    counts = _positives_per_query(query_id.cpu().numpy(), item_id.cpu().numpy())
    return _summary(rank, counts, len(items), ks)


def retrieve_both_ways(
    u: Float[Tensor, "Q D"],
    v: Float[Tensor, "M D"],
    u_id: Int64[Tensor, "Q"],
    v_id: Int64[Tensor, "M"],
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> tuple[Retrieval, Retrieval]:
    """(u searching v, v searching u). An image's id equals the id of each of its captions."""
    return retrieve(u, v, u_id, v_id, ks=ks), retrieve(v, u, v_id, u_id, ks=ks)


def ranks(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "M D"],
    query_id: Int64[Tensor, "Q"],
    item_id: Int64[Tensor, "M"],
) -> Int64[Tensor, "Q"]:
    """The rank of each query's best positive, 1 is best, on the CPU.

    XmodalError when an embedding is not finite (its comparisons would all be false, and its rank 1) or a query has
    no positive.
    """
    _check(queries, items, query_id, item_id)
    tolerance = TIE * queries.norm(dim=1, dtype=torch.float64) * items.norm(dim=1, dtype=torch.float64).max()
    best, place = _best_positives(queries, items, query_id, item_id, tolerance)
    before = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for rows in _tiles(len(queries), QUERY_TILE):
        own = queries[rows].double()
        for columns in _tiles(len(items), ITEM_TILE):
            scores = own @ items[columns].double().T
            before[rows] += (scores > (best + tolerance)[rows, None]).sum(dim=1)
            before[rows] += _tied_before(
                scores - best[rows, None], tolerance[rows], place[rows], query_id[rows], item_id[columns], columns.start
            )
    return (before + 1).cpu()


def _tied_before(
    margin: Float64[Tensor, "q m"],
    tolerance: Float64[Tensor, "q"],
    place: Int64[Tensor, "q"],
    query_id: Int64[Tensor, "q"],
    item_id: Int64[Tensor, "m"],
    first: int,
) -> Int64[Tensor, "q"]:
    """How many other items with the best positive's score stand before it; `first` is the tile's first item."""
    query, item = (margin.abs() <= tolerance[:, None]).nonzero(as_tuple=True)
    counts = (item + first < place[query]) & (item_id[item] != query_id[query])
    return torch.zeros_like(place).index_add_(0, query, counts.long())


def _best_positives(
    queries: Tensor, items: Tensor, query_id: Tensor, item_id: Tensor, tolerance: Tensor
) -> tuple[Float64[Tensor, "Q"], Int64[Tensor, "Q"]]:
    """Each query's highest score among its positives, and the first place that has it."""
    best = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=queries.device)
    place = torch.full((len(queries),), len(items), dtype=torch.int64, device=queries.device)
    width = queries.shape[1]
    for query, item in _positive_pairs(query_id, item_id, width):
        best.scatter_reduce_(0, query, _scores(queries, items, query, item), "amax")
    for query, item in _positive_pairs(query_id, item_id, width):
        is_best = _scores(queries, items, query, item) >= (best - tolerance)[query]
        place.scatter_reduce_(0, query[is_best], item[is_best], "amin")
    return best, place


def _scores(queries: Tensor, items: Tensor, query: Tensor, item: Tensor) -> Tensor:
    return (queries[query].double() * items[item].double()).sum(dim=1)


def _positive_pairs(query_id: Tensor, item_id: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs with equal ids, as (query, item) places, some at a time."""
    sorted_id, order = item_id.sort(stable=True)
    start = torch.searchsorted(sorted_id, query_id)
    count = torch.searchsorted(sorted_id, query_id, right=True) - start
    end = count.cumsum(0)
    for pairs in _tiles(int(end[-1]), max(1, PAIR_BYTES // (16 * width))):
        pair = torch.arange(pairs.start, pairs.stop, device=query_id.device)
        query = torch.searchsorted(end, pair, right=True)
        yield query, order[start[query] + pair - (end - count)[query]]


def _tiles(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _check(queries: Tensor, items: Tensor, query_id: Tensor, item_id: Tensor) -> None:
    for name, rows in (("query", queries), ("item", items)):
        if len(rows) == 0:
            raise XmodalError(f"retrieval without a single {name}: no row of the corpus was valid")
        bad = (~rows.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise XmodalError(f"the embedding of {name} {int(bad[0])} is not finite ({len(bad)} such rows)")
    alone = (~torch.isin(query_id, item_id)).nonzero()
    if len(alone):
        raise XmodalError(
            f"query {int(alone[0])} (id {int(query_id[alone[0]])}) has no item with its id "
            f"({len(alone)} such queries): leave them out"
        )


def _positives_per_query(query_id: np.ndarray, item_id: np.ndarray) -> np.ndarray:
    ordered = np.sort(item_id)
    return np.searchsorted(ordered, query_id, "right") - np.searchsorted(ordered, query_id, "left")


def _summary(rank: np.ndarray, positives: np.ndarray, items: int, ks: Sequence[int]) -> Retrieval:
    kinds, share = np.unique(positives, return_counts=True)
    share = share / share.sum()
    return Retrieval(
        queries=len(rank),
        items=items,
        recall={k: float((rank <= k).mean()) for k in ks},
        median_rank=float(np.median(rank)),
        chance_recall={k: _chance(k, kinds, share, items) for k in ks},
        chance_median_rank=_chance_median(kinds, share, items),
    )


def _chance(k: int, positives: np.ndarray, share: np.ndarray, items: int) -> float:
    """Probability that a random order has a positive among the first k; `share` of the queries have so many."""
    return float(sum(part * (1 - _miss(k, int(count), items)) for count, part in zip(positives, share, strict=True)))


def _miss(k: int, positives: int, items: int) -> float:
    """C(M - P, k) / C(M, k), which is the same with k and P exchanged: as a product of the smaller's length."""
    fewer, more = sorted((min(k, items), positives))
    return float(np.prod(np.clip(1 - more / (items - np.arange(fewer)), 0, None)))


def _chance_median(positives: np.ndarray, share: np.ndarray, items: int) -> float:
    """The rank at which a random order has found a positive for half of the queries."""
    low, high = 1, items
    while low < high:
        middle = (low + high) // 2
        if _chance(middle, positives, share, items) >= 0.5 - 1e-12:
            high = middle
        else:
            low = middle + 1
    return float(low)
