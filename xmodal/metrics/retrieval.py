"""Retrieval between two embedding spaces: recall@K and median rank, with the values that chance gives.

Q: queries.  M: items to search.  D: embedding width.  The score of a pair is the dot product, computed in float64; give
unit rows for the cosine. An item is a positive of a query if they share an id; rows of one side may have several ids
(an image with five captions), and a query several positives.

The rank of a query (1 is best) is the position of its best positive: it counts every item with a higher score and, of
items with an equal score, every one with a smaller index. A model that gives all items the same score thus gets what
guessing gets, not 100 %. Two scores are equal if they differ by less than `retrieval_ranks.TIE` times the lengths of
the embeddings: sums of the same numbers in another order differ by that much.

The conventions are those of CLIP_benchmark (a hit is at least one positive among the first K, averaged over queries),
which has no rule for ties.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.metrics.bootstrap import interval_of_median, interval_of_share
from xmodal.metrics.positive_pairs import RowIds, as_row_ids, positives_per_query
from xmodal.metrics.retrieval_ranks import ranks, ranks_both_ways


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """The metrics of one direction of retrieval.

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
        """Return flat names for a log: `<prefix>/recall@1`, `<prefix>/chance/recall@1`, `<prefix>/median_rank`, ..."""
        metrics = {f"{prefix}/recall@{k}": value for k, value in self.recall.items()}
        metrics |= {f"{prefix}/chance/recall@{k}": value for k, value in self.chance_recall.items()}
        metrics[f"{prefix}/median_rank"] = self.median_rank
        metrics[f"{prefix}/chance/median_rank"] = self.chance_median_rank
        return metrics

    def intervals(self, prefix: str, *, draws: int, seed: int) -> dict[str, tuple[float, float]]:
        """Return 95 % bootstrap intervals over queries, under the names of `as_metrics` without those of chance."""
        intervals = {
            f"{prefix}/recall@{k}": interval_of_share(share, self.queries, draws=draws, seed=seed)
            for k, share in self.recall.items()
        }
        return intervals | {f"{prefix}/median_rank": interval_of_median(self.rank, draws=draws, seed=seed)}


def retrieve(
    queries: Float[Tensor, "Q D"],
    items: Float[Tensor, "M D"],
    query_id: Int64[Tensor, "Q"] | RowIds,
    item_id: Int64[Tensor, "M"] | RowIds,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalResult:
    """Search `items` for each of `queries`; exact, in memory that does not grow with Q x M.

    >>> import torch
    >>> result = retrieve(torch.eye(4), torch.eye(4), torch.arange(4), torch.arange(4), ks=(1,))
    >>> result.recall[1], result.chance_recall[1]
    (1.0, 0.25)
    """
    rank = ranks(queries, items, query_id, item_id).numpy()
    counts = positives_per_query(len(queries), as_row_ids(query_id), as_row_ids(item_id))
    return summarise_ranks(rank, counts, len(items), ks)


def retrieve_both_ways(
    u: Float[Tensor, "Q D"],
    v: Float[Tensor, "M D"],
    u_id: Int64[Tensor, "Q"] | RowIds,
    v_id: Int64[Tensor, "M"] | RowIds,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> tuple[RetrievalResult, RetrievalResult]:
    """Search v for u and u for v, at the cost of one search. The ids of an image are those of its captions."""
    u_ranks, v_ranks = ranks_both_ways(u, v, u_id, v_id)
    u_ids, v_ids = as_row_ids(u_id), as_row_ids(v_id)
    return (
        summarise_ranks(u_ranks.numpy(), positives_per_query(len(u), u_ids, v_ids), len(v), ks),
        summarise_ranks(v_ranks.numpy(), positives_per_query(len(v), v_ids, u_ids), len(u), ks),
    )


def summarise_ranks(rank: np.ndarray, positives: np.ndarray, items: int, ks: Sequence[int]) -> RetrievalResult:
    """Compute the metrics from the `rank` and the number of `positives` of each query, among so many `items`."""
    counts, share = np.unique(positives, return_counts=True)
    share = share / share.sum()
    return RetrievalResult(
        queries=len(rank),
        items=items,
        recall={k: float((rank <= k).mean()) for k in ks},
        median_rank=float(np.median(rank)),
        chance_recall={k: _chance(k, counts, share, items) for k in ks},
        chance_median_rank=_chance_median(counts, share, items),
        rank=rank,
    )


def _chance(k: int, positives: np.ndarray, share: np.ndarray, items: int) -> float:
    """Return the probability that a random order has a positive among the first k, averaged over queries.

    `share` are the shares of queries with `positives` positives.
    """
    return float(
        sum(fraction * (1 - _miss(k, int(count), items)) for count, fraction in zip(positives, share, strict=True))
    )


def _miss(k: int, positives: int, items: int) -> float:
    """Return C(M - P, k) / C(M, k), which is symmetric in k and P, as a product of the smaller number of factors."""
    fewer, more = sorted((min(k, items), positives))
    return float(np.prod(np.clip(1 - more / (items - np.arange(fewer)), 0, None)))


def _chance_median(positives: np.ndarray, share: np.ndarray, items: int) -> float:
    """Return the rank at which a random order has reached a positive for half of the queries."""
    low, high = 1, items
    while low < high:
        middle = (low + high) // 2
        if _chance(middle, positives, share, items) >= 0.5 - 1e-12:
            high = middle
        else:
            low = middle + 1
    return float(low)
