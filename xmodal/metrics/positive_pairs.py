"""Which queries and items belong together: the pairs of rows that share an identity.

An image may have several captions, and a caption may belong to several images, so a row may have several identities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class RowIds:
    """Identities of rows as int64 arrays of E entries: row `owner[e]` has the identity `id[e]`, and may have others."""

    owner: np.ndarray
    id: np.ndarray

    def __post_init__(self) -> None:
        if self.owner.shape != self.id.shape or self.owner.ndim != 1:
            raise ValueError(f"one owner for each id: {self.owner.shape} and {self.id.shape}")


def as_row_ids(ids: Int64[Tensor, "R"] | RowIds) -> RowIds:
    """Return the identities of rows that have one each as `RowIds`."""
    if isinstance(ids, RowIds):
        return ids
    return RowIds(np.arange(len(ids)), ids.cpu().numpy())


def positive_pairs(query_ids: RowIds, item_ids: RowIds, at_once: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs that share an identity as int64 (query, item), `at_once` at a time.

    A pair that shares several identities is yielded several times.
    """
    order = np.argsort(item_ids.id, kind="stable")
    start, count = _matches(query_ids.id, item_ids.id[order])
    end = np.cumsum(count)
    for first in range(0, int(end[-1]) if len(end) else 0, at_once):
        pair = np.arange(first, min(first + at_once, int(end[-1])))
        entry = np.searchsorted(end, pair, side="right")
        item = order[start[entry] + pair - (end - count)[entry]]
        yield query_ids.owner[entry], item_ids.owner[item]


def positives_per_query(queries: int, query_ids: RowIds, item_ids: RowIds) -> np.ndarray:
    """Count the items that share an identity with each query: int64 [Q].

    ValueError if rows of both sides have several identities, since a pair could then share more than one.
    """
    if all(len(np.unique(ids.owner)) < len(ids.owner) for ids in (query_ids, item_ids)):
        raise ValueError("only one side may have several ids for a row")
    _, count = _matches(query_ids.id, np.sort(item_ids.id))
    return np.bincount(query_ids.owner, weights=count, minlength=queries).astype(np.int64)


def _matches(query_id: np.ndarray, sorted_item_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each query identity its first position among the sorted item identities, and its number of matches."""
    start = np.searchsorted(sorted_item_id, query_id)
    return start, np.searchsorted(sorted_item_id, query_id, side="right") - start
