"""Nearest-neighbour searches over held-out pairs by one or several models: random queries, and the worst ones.

P: pairs.  U: different captions among them. A text query searches all P images, an image query the U captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.metrics.retrieval_ranks import ranks
from xmodal.report.held_out_pairs import PairEmbeddings, ReportPairs

HITS_SHOWN = 5
QUERY_SEED = 0  # of the random choice of queries


@dataclass(frozen=True, kw_only=True)
class SearchHit:
    """One result of a search: the index of its pair, its cosine to the query, and whether it is correct."""

    pair: int
    cosine: float
    correct: bool


@dataclass(frozen=True, kw_only=True)
class RankedHits:
    """The first results of one model, and the rank of the best correct one (1 is best)."""

    first: tuple[SearchHit, ...]
    rank: int


@dataclass(frozen=True, kw_only=True)
class GallerySearch:
    """One query (the index of its pair) with the results of every model, in the order of the models."""

    pair: int
    results: tuple[RankedHits, ...]


@dataclass(frozen=True, kw_only=True)
class GallerySearches:
    """Searches in both directions: random queries, and those with the worst rank (mean over the models)."""

    text_to_image: tuple[GallerySearch, ...]
    image_to_text: tuple[GallerySearch, ...]
    worst_texts: tuple[GallerySearch, ...]
    worst_images: tuple[GallerySearch, ...]
    captions: int  # U


def search_gallery(
    pairs: ReportPairs, models: Sequence[PairEmbeddings], random_queries: int = 6, worst_queries: int = 4
) -> GallerySearches:
    """Search with so many random and so many of the worst queries in each direction.

    Captions that occur several times count as one text.
    """
    ids = pairs.ids
    texts = _first_of_each(ids)
    images = torch.arange(len(pairs))
    by_text = _text_directions(pairs, models)
    by_image = [_Direction(model.image, model.text[texts], ids, ids[texts], images, texts) for model in models]
    random = np.random.default_rng(QUERY_SEED)
    random_texts = random.permutation(len(texts))[:random_queries].tolist()
    random_images = random.permutation(len(pairs))[:random_queries].tolist()
    return GallerySearches(
        text_to_image=_searches(by_text, random_texts),
        image_to_text=_searches(by_image, random_images),
        worst_texts=_searches(by_text, _worst_queries(by_text, worst_queries)),
        worst_images=_searches(by_image, _worst_queries(by_image, worst_queries)),
        captions=len(texts),
    )


def search_by_rank_change(
    pairs: ReportPairs, before: PairEmbeddings, after: PairEmbeddings, count: int
) -> tuple[GallerySearch, ...]:
    """Search texts with two models, evenly spread over how far the rank of the correct image changed.

    All texts are sorted by rank before / rank after, largest first, and cut into `count` equal parts; the middle of
    each part is searched. So the queries are neither the best nor the worst ones.
    """
    models = _text_directions(pairs, (before, after))
    gain = models[0].ranks.double().log() - models[1].ranks.double().log()
    order = torch.argsort(gain, descending=True, stable=True)
    middles = ((torch.arange(count) + 0.5) / count * len(order)).long().unique()
    return _searches(models, order[middles].tolist())


def _text_directions(pairs: ReportPairs, models: Sequence[PairEmbeddings]) -> list["_Direction"]:
    ids, images = pairs.ids, torch.arange(len(pairs))
    texts = _first_of_each(ids)
    return [_Direction(model.text[texts], model.image, ids[texts], ids, texts, images) for model in models]


class _Direction:
    """All searches of one model in one direction; `pair_of_*` are the indices of the pairs behind queries and items."""

    def __init__(
        self,
        queries: Float[Tensor, "Q D"],
        items: Float[Tensor, "M D"],
        query_id: Int64[Tensor, "Q"],
        item_id: Int64[Tensor, "M"],
        pair_of_query: Int64[Tensor, "Q"],
        pair_of_item: Int64[Tensor, "M"],
    ) -> None:
        self._queries, self._items, self._query_id, self._item_id = queries, items, query_id, item_id
        self._pair_of_query, self._pair_of_item = pair_of_query, pair_of_item
        self.ranks = ranks(queries, items, query_id, item_id)

    def pair(self, query: int) -> int:
        """Return the index of the query's pair."""
        return int(self._pair_of_query[query])

    def search(self, query: int) -> RankedHits:
        """Return the nearest items of a query."""
        cosines = self._items @ self._queries[query]
        order = torch.argsort(cosines, descending=True, stable=True)[:HITS_SHOWN].tolist()
        first = tuple(
            SearchHit(
                pair=int(self._pair_of_item[item]),
                cosine=float(cosines[item]),
                correct=bool(self._item_id[item] == self._query_id[query]),
            )
            for item in order
        )
        return RankedHits(first=first, rank=int(self.ranks[query]))


def _searches(models: Sequence[_Direction], queries: Sequence[int]) -> tuple[GallerySearch, ...]:
    return tuple(
        GallerySearch(pair=models[0].pair(query), results=tuple(model.search(query) for model in models))
        for query in queries
    )


def _worst_queries(models: Sequence[_Direction], count: int) -> list[int]:
    """Return the queries with the largest mean rank over the models; none that every model ranks first."""
    mean = torch.stack([model.ranks.double() for model in models]).mean(0)
    order = torch.argsort(mean, descending=True, stable=True)[:count]
    return [int(query) for query in order if mean[query] > 1]


def _first_of_each(ids: Int64[Tensor, "P"]) -> Int64[Tensor, "U"]:
    """Return the index of the first pair of each caption."""
    _, first = np.unique(ids.numpy(), return_index=True)
    return torch.from_numpy(np.sort(first))
