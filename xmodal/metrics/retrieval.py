"""Retrieval between two embedding spaces: embeddings and ids in, recall@K and median rank beside chance out.

Q: queries.  M: items to search.  D: embedding width.  The score of a pair is the dot product, taken in float64; give
unit-length rows for the cosine. An item is a positive of a query when they share an id; rows of one side may have
several ids (an image with five captions), and a query several positives.

Rank (1 is best): the place of the query's best positive, counting every item with a higher score and, among equal
scores, every other item that stands before it. A model that gives all items the same score thus gets what guessing
gets, not 100 %. Two scores are equal when they differ by less than `ranks.TIE` times the lengths of the embeddings:
sums of the same numbers in another order differ by that much. `ranks` does the search.

The conventions are those of CLIP_benchmark (a hit is at least one positive among the first K, averaged over queries),
which itself has no rule for ties.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.metrics.bootstrap import interval_of_median, interval_of_share
from xmodal.metrics.positive_pairs import Ids, entries, positives_per_query
from xmodal.metrics.retrieval_ranks import ranks, ranks_both_ways


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
    rank: np.ndarray = field(repr=False, compare=False)  # int64 [queries]: of each query's best positive

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """Flat names for a log: `<prefix>/recall@1`, `<prefix>/chance/recall@1`, `<prefix>/median_rank`, ..."""
        metrics = {f"{prefix}/recall@{k}": value for k, value in self.recall.items()}
        metrics |= {f"{prefix}/chance/recall@{k}": value for k, value in self.chance_recall.items()}
        metrics[f"{prefix}/median_rank"] = self.median_rank
        metrics[f"{prefix}/chance/median_rank"] = self.chance_median_rank
        return metrics

    def intervals(self, prefix: str, *, draws: int, seed: int) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over queries, under the names of `as_metrics` that are no chance."""
        found = {
            f"{prefix}/recall@{k}": interval_of_share(share, self.queries, draws=draws, seed=seed)
            for k, share in self.recall.items()
        }
        return found | {f"{prefix}/median_rank": interval_of_median(self.rank, draws=draws, seed=seed)}


def retrieve(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "M D"],
    query_id: Int64[Tensor, "Q"] | Ids,
    item_id: Int64[Tensor, "M"] | Ids,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Search `items` for each of `queries`; exact, in memory that does not grow with Q x M."""
    rank = ranks(queries, items, query_id, item_id).numpy()
    counts = positives_per_query(len(queries), entries(query_id), entries(item_id))
    return summary(rank, counts, len(items), ks)


def retrieve_both_ways(
    u: Float[Tensor, "Q D"],
    v: Float[Tensor, "M D"],
    u_id: Int64[Tensor, "Q"] | Ids,
    v_id: Int64[Tensor, "M"] | Ids,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> tuple[Retrieval, Retrieval]:
    """(u searching v, v searching u), at the price of one. An image's ids are those of its captions."""
    forth, back = ranks_both_ways(u, v, u_id, v_id)
    of_u, of_v = entries(u_id), entries(v_id)
    return (
        summary(forth.numpy(), positives_per_query(len(u), of_u, of_v), len(v), ks),
        summary(back.numpy(), positives_per_query(len(v), of_v, of_u), len(u), ks),
    )


def summary(rank: np.ndarray, positives: np.ndarray, items: int, ks: Sequence[int]) -> Retrieval:
    """The figures of a search: `rank` and the number of `positives` of each query, among so many `items`."""
    kinds, share = np.unique(positives, return_counts=True)
    share = share / share.sum()
    return Retrieval(
        queries=len(rank),
        items=items,
        recall={k: float((rank <= k).mean()) for k in ks},
        median_rank=float(np.median(rank)),
        chance_recall={k: _chance(k, kinds, share, items) for k in ks},
        chance_median_rank=_chance_median(kinds, share, items),
        rank=rank,
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
