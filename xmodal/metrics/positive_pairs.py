"""Which rows of two sides belong together: their identities in, the pairs that share one out.

An image may have several captions, and a caption may be that of several images, so a row may have several identities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Ids:
    """What rows are: row `owner[e]` has the identity `id[e]`, and may have others; int64 arrays of E entries."""

    owner: np.ndarray
    id: np.ndarray

    def __post_init__(self) -> None:
        if self.owner.shape != self.id.shape or self.owner.ndim != 1:
            raise ValueError(f"one owner for each id: {self.owner.shape} and {self.id.shape}")


def entries(ids: Int64[Tensor, "R"] | Ids) -> Ids:
    """The identities of rows that have one each, as entries."""
    if isinstance(ids, Ids):
        return ids
    return Ids(np.arange(len(ids)), ids.cpu().numpy())


def positive_pairs(query_ids: Ids, item_ids: Ids, at_once: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs that share an identity, as int64 (query, item), `at_once` at a time.

    A pair that shares several comes several times.
    """
    order = np.argsort(item_ids.id, kind="stable")
    start, count = _matches(query_ids.id, item_ids.id[order])
    end = np.cumsum(count)
    for first in range(0, int(end[-1]) if len(end) else 0, at_once):
        pair = np.arange(first, min(first + at_once, int(end[-1])))
        entry = np.searchsorted(end, pair, side="right")
        item = order[start[entry] + pair - (end - count)[entry]]
        yield query_ids.owner[entry], item_ids.owner[item]


def positives_per_query(queries: int, query_ids: Ids, item_ids: Ids) -> np.ndarray:
    """How many items share an identity with each query: int64 [Q].

    ValueError where rows of both sides have several, since a pair could then share more than one.
    """
    if all(len(np.unique(ids.owner)) < len(ids.owner) for ids in (query_ids, item_ids)):
        raise ValueError("only one side may have several ids for a row")
    _, count = _matches(query_ids.id, np.sort(item_ids.id))
    return np.bincount(query_ids.owner, weights=count, minlength=queries).astype(np.int64)


def _matches(query_id: np.ndarray, sorted_item_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = np.searchsorted(sorted_item_id, query_id)
    return start, np.searchsorted(sorted_item_id, query_id, side="right") - start
