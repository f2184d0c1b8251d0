"""Embedded pairs of one or several models in; searches with their first answers, hits marked, and the worst ones out.

P: pairs. U: different captions among them; a text search runs over all P pictures, an image search over U captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.metrics.retrieval_ranks import ranks
from xmodal.report.held_out_pairs import Embedded, Pairs

SHOWN = 5  # answers of a search
SEED = 0  # of the draw of queries


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One thing found: the number of its pair, its cosine to the query, and whether it is right."""

    pair: int
    cosine: float
    hit: bool


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model found: the first few, and the rank of the best right answer (1 is best)."""

    first: tuple[Answer, ...]
    rank: int


@dataclass(frozen=True, kw_only=True)
class Search:
    """One query (the number of its pair) and the answers of every model, in the order of the models."""

    pair: int
    answers: tuple[Answers, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Searches both ways: some drawn at random, and those that went worst (by the mean rank over models)."""

    text_to_image: tuple[Search, ...]
    image_to_text: tuple[Search, ...]
    worst_texts: tuple[Search, ...]
    worst_images: tuple[Search, ...]
    captions: int  # U


def gallery(pairs: Pairs, models: Sequence[Embedded], shown: int = 6, worst: int = 4) -> Gallery:
    """`shown` random and `worst` failed searches each way. Captions that occur twice are one text."""
    ids = pairs.ids
    texts = _first_of_each(ids)
    everything = torch.arange(len(pairs))
    by_text = [_Searches(one.text[texts], one.image, ids[texts], ids, texts, everything) for one in models]
    by_image = [_Searches(one.image, one.text[texts], ids, ids[texts], everything, texts) for one in models]
    drawn = np.random.default_rng(SEED)
    some_texts = drawn.permutation(len(texts))[:shown].tolist()
    some_images = drawn.permutation(len(pairs))[:shown].tolist()
    return Gallery(
        text_to_image=_chosen(by_text, some_texts),
        image_to_text=_chosen(by_image, some_images),
        worst_texts=_chosen(by_text, _worst(by_text, worst)),
        worst_images=_chosen(by_image, _worst(by_image, worst)),
        captions=len(texts),
    )


class _Searches:
    """All searches of one model in one direction; `pair_of_*` number the pairs behind queries and items."""

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
        return int(self._pair_of_query[query])

    def answers(self, query: int) -> Answers:
        cosines = self._items @ self._queries[query]
        order = torch.argsort(cosines, descending=True, stable=True)[:SHOWN].tolist()
        first = tuple(
            Answer(
                pair=int(self._pair_of_item[item]),
                cosine=float(cosines[item]),
                hit=bool(self._item_id[item] == self._query_id[query]),
            )
            for item in order
        )
        return Answers(first=first, rank=int(self.ranks[query]))


def _chosen(models: Sequence[_Searches], queries: Sequence[int]) -> tuple[Search, ...]:
    return tuple(
        Search(pair=models[0].pair(query), answers=tuple(model.answers(query) for model in models)) for query in queries
    )


def _worst(models: Sequence[_Searches], count: int) -> list[int]:
    """The queries whose right answer came last, none that was found among those shown by every model."""
    mean = torch.stack([model.ranks.double() for model in models]).mean(0)
    order = torch.argsort(mean, descending=True, stable=True)[:count]
    return [int(query) for query in order if mean[query] > 1]


def _first_of_each(ids: Int64[Tensor, "P"]) -> Int64[Tensor, "U"]:
    """The numbers of the pairs whose caption did not occur before."""
    _, first = np.unique(ids.numpy(), return_index=True)
    return torch.from_numpy(np.sort(first))
