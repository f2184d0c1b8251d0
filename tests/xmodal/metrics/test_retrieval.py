"""Recall and ranks equal a naive float64 search, and no degenerate model scores above chance."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import comb

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import XmodalError
from xmodal.metrics import retrieval_ranks as search
from xmodal.metrics.bootstrap import interval_of_median
from xmodal.metrics.positive_pairs import RowIds
from xmodal.metrics.retrieval import retrieve, retrieve_both_ways, summarise_ranks
from xmodal.metrics.retrieval_ranks import ranks, ranks_both_ways


def naive_rank(query: np.ndarray, items: np.ndarray, is_positive: np.ndarray) -> int:
    """Return the rank by definition: the whole row of scores, the best positive, and the items before it."""
    scores = (items * query).sum(axis=1)
    best = scores[is_positive].max()
    place = np.flatnonzero(is_positive & (scores == best))[0]
    tied_before = (scores == best) & ~is_positive & (np.arange(len(items)) < place)
    return 1 + int((scores > best).sum()) + int(tied_before.sum())


def naive_ranks(u: np.ndarray, v: np.ndarray, u_id: np.ndarray, v_id: np.ndarray) -> list[int]:
    return [naive_rank(query, v, v_id == id_) for query, id_ in zip(u, u_id, strict=True)]


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Draw small whole numbers, so that sums are exact and ties frequent; every query has at least one positive."""
    queries, width = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    kinds = draw(st.integers(1, 6))
    extra = draw(st.integers(0, 15))
    values = st.integers(-2, 2).map(float)
    u = draw(arrays.arrays(np.float64, (queries, width), elements=values))
    v = draw(arrays.arrays(np.float64, (kinds + extra, width), elements=values))
    ids = st.integers(0, kinds - 1)
    u_id = draw(arrays.arrays(np.int64, queries, elements=ids))
    v_id = np.concatenate([np.arange(kinds), draw(arrays.arrays(np.int64, extra, elements=ids))])
    order = draw(st.permutations(range(kinds + extra)))
    return u, v[order], u_id, v_id[order]


def tensors(problem: tuple[np.ndarray, ...]) -> list[torch.Tensor]:
    u, v, u_id, v_id = (torch.from_numpy(np.ascontiguousarray(part)) for part in problem)
    return [u.float(), v.float(), u_id, v_id]


@settings(max_examples=200)
@given(problems(), st.integers(1, 12), st.integers(1, 20), st.sampled_from([0.0, 1 / 64, 2.0]))
def test_ranks_equal_a_naive_search_with_ties_for_any_tiling(problem, query_tile, item_tile, dense_share) -> None:
    """Undecided scores are computed again pair by pair (2) or tile by tile (0)."""
    with tiling(query_tile, item_tile, dense_share):
        assert ranks(*tensors(problem)).tolist() == naive_ranks(*problem)


@contextmanager
def tiling(query_tile: int, item_tile: int, dense_share: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "QUERY_TILE", query_tile)
        patch.setattr(search, "ITEM_TILE", item_tile)
        patch.setattr(search, "PAIR_BYTES", 32 * query_tile)
        patch.setattr(search, "DENSE_SHARE", dense_share)
        yield


@st.composite
def captioned_images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]], np.ndarray]:
    """Draw images with one to four captions, some shared; scores that tie or that only float64 tells apart."""
    images, width = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    wordings = st.integers(0, draw(st.integers(0, 8)))
    texts = draw(st.lists(st.lists(wordings, min_size=1, max_size=4), min_size=images, max_size=images))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    u = random.integers(-2, 3, (images, width)).astype(np.float64)
    v = random.integers(-2, 3, (sum(map(len, texts)), width)).astype(np.float64)
    if draw(st.booleans()):  # by less than float32 scores can show; exact in float64
        v += random.integers(-1, 2, v.shape) * 2.0**-26
    scale = 2.0 ** draw(st.sampled_from([0, -80, 70]))
    return u * scale, v * scale, texts, random.permutation(len(v))


def test_search_with_several_captions_equals_the_definition() -> None:
    """Both directions, from one product, against whole rows of float64 scores."""

    @settings(max_examples=200)
    @given(captioned_images(), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 1 / 64, 2.0]))
    def check(problem, query_tile, item_tile, dense_share) -> None:
        u, v, texts, order = problem
        owner = np.repeat(np.arange(len(u)), [len(captions) for captions in texts])[order]
        wording = np.concatenate(texts)[order]
        v = v[order]
        is_positive = np.array([[text in texts[image] for text in wording] for image in range(len(u))])
        with tiling(query_tile, item_tile, dense_share):
            forth, back = ranks_both_ways(
                torch.from_numpy(u), torch.from_numpy(v), RowIds(owner, wording), torch.from_numpy(wording)
            )
        assert forth.tolist() == [naive_rank(u[i], v, is_positive[i]) for i in range(len(u))]
        assert back.tolist() == [naive_rank(v[t], u, is_positive[:, t]) for t in range(len(v))]

    check()


def test_misleading_float32_scores_are_computed_again() -> None:
    """Most neighbours in float64 change places in float32, so a search in float32 only is wrong here."""
    draw = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 64, generator=draw, dtype=torch.float64)
    u = (centre + 1e-4 * torch.randn(300, 64, generator=draw, dtype=torch.float64)).float()
    v = (centre + 1e-4 * torch.randn(700, 64, generator=draw, dtype=torch.float64)).float()
    ids = torch.arange(300)
    item_ids = torch.arange(700) % 300
    expected = naive_ranks(*(x.double().numpy() for x in (u, v)), ids.numpy(), item_ids.numpy())
    scores = u @ v.T
    best = torch.where(ids[:, None] == item_ids, scores, -torch.inf).max(1, keepdim=True).values
    assert ((scores > best).sum(1) + 1).tolist() != expected
    for dense_share in (0.0, 2.0):
        with tiling(64, 128, dense_share):
            assert ranks(u, v, ids, item_ids).tolist() == expected


def test_shuffled_captions_give_chance() -> None:
    """A model that tells all pairs apart gets chance on wrong pairs."""
    draw = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(2000, 16, generator=draw), dim=1)
    shuffled = torch.randperm(2000, generator=draw)
    for result in retrieve_both_ways(u, u, torch.arange(2000), shuffled):
        assert result.recall[10] == pytest.approx(result.chance_recall[10], abs=4 * (10 / 2000 / 2000) ** 0.5)
        assert result.median_rank == pytest.approx(result.chance_median_rank, rel=0.1)


def test_intervals_contain_the_metric_and_shrink_with_more_queries() -> None:
    random = np.random.default_rng(0)
    widths = []
    for queries in (101, 10_000):
        rank = random.integers(1, 101, queries)
        result = summarise_ranks(rank, np.ones(queries, np.int64), 100, (10,))
        intervals = result.intervals("a", draws=1000, seed=0)
        for name, (low, high) in intervals.items():
            assert low <= result.as_metrics("a")[name] <= high
        assert intervals == result.intervals("a", draws=1000, seed=0)
        widths.append(np.ptp(intervals["a/recall@10"]))
    assert widths[1] < widths[0] / 5


@pytest.mark.parametrize("queries", [1, 2, 9, 40])
def test_the_interval_of_a_median_equals_that_of_resampling(queries: int) -> None:
    random = np.random.default_rng(1)
    values = random.integers(1, 1000, queries)
    resampled = np.median(values[random.integers(0, queries, (20_000, queries))], axis=1)
    expected = np.percentile(resampled, [2.5, 97.5])
    assert interval_of_median(values, draws=20_000, seed=0) == pytest.approx(expected, rel=0.15, abs=15)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 40), st.integers(2, 16))
def test_ranks_of_real_embeddings_equal_a_naive_search(seed: int, queries: int, kinds: int, width: int) -> None:
    draw = np.random.default_rng(seed)
    v_id = draw.permutation(np.concatenate([np.arange(kinds), draw.integers(0, kinds, kinds)]))
    u = draw.standard_normal((queries, width)).astype(np.float32)
    v = draw.standard_normal((2 * kinds, width)).astype(np.float32)
    u_id = draw.integers(0, kinds, queries)
    expected = naive_ranks(u.astype(np.float64), v.astype(np.float64), u_id, v_id)
    assert ranks(*map(torch.from_numpy, (u, v, u_id, v_id))).tolist() == expected


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_items_does_not_matter_without_ties(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    u, v = torch.randn(20, 8, generator=draw), torch.randn(30, 8, generator=draw)
    u_id, v_id = torch.arange(20), torch.arange(30) % 20
    order = torch.randperm(30, generator=draw)
    assert torch.equal(ranks(u, v, u_id, v_id), ranks(u, v[order], u_id, v_id[order]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_collapsed_model_gets_chance(dtype: torch.dtype, noise: float) -> None:
    """The same embedding for all rows, also with the noise that a real collapsed model has."""
    draw = torch.Generator().manual_seed(0)
    pairs = 700
    u = (torch.ones(pairs, 48) + noise * torch.randn(pairs, 48, generator=draw)).to(dtype)
    v = (torch.ones(pairs, 48) + noise * torch.randn(pairs, 48, generator=draw)).to(dtype)
    ids = torch.randperm(pairs, generator=draw)
    result = retrieve(u, v, ids, torch.arange(pairs))
    assert result.recall[10] == pytest.approx(result.chance_recall[10], abs=3 * (10 / pairs / pairs) ** 0.5)
    assert result.median_rank == pytest.approx(result.chance_median_rank, rel=0.1)


def test_equal_items_tie_at_any_position() -> None:
    """A matrix product may sum in another order at the edge of a tile; that must not break a tie."""
    draw = torch.Generator().manual_seed(0)
    row = torch.randn(1, 333, generator=draw)
    u, v = torch.randn(5000, 333, generator=draw)[:600], row.expand(5000, 333).contiguous()
    ids = torch.arange(5000)
    assert torch.equal(ranks(u, v, ids[:600], ids), ids[:600] + 1)


def test_perfect_embeddings_are_always_first_both_ways() -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.nn.functional.normalize(torch.randn(50, 16, generator=draw), dim=1)
    text = image.repeat_interleave(5, dim=0)
    image_id = torch.arange(50)
    to_text, to_image = retrieve_both_ways(image, text, image_id, image_id.repeat_interleave(5))
    assert to_text.recall == to_image.recall == {1: 1.0, 5: 1.0, 10: 1.0}
    assert to_text.median_rank == to_image.median_rank == 1.0
    assert (to_text.queries, to_text.items, to_image.queries, to_image.items) == (50, 250, 250, 50)


def test_a_hit_is_at_least_one_positive() -> None:
    """With one of five captions found, recall@1 is 1, not 1/5."""
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 9.0], [0.0, 9.0], [0.0, 1.0], [9.0, 0.1]])
    result = retrieve(image, text, torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1, 0]))
    assert ranks(image, text, torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1, 0])).tolist() == [1, 3]
    assert result.recall[1] == 0.5


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_chance_is_the_hypergeometric_probability(items: int, positives: int, k: int) -> None:
    positives, k = min(positives, items), min(k, items)
    ids = torch.cat([torch.zeros(positives), torch.arange(1, items - positives + 1)]).long()
    result = retrieve(torch.ones(1, 2), torch.ones(items, 2), torch.zeros(1).long(), ids, ks=(k,))
    exact = 1 - Fraction(comb(items - positives, k), comb(items, k))
    assert result.chance_recall[k] == pytest.approx(float(exact), abs=1e-12)


def test_chance_equals_a_simulation_with_mixed_numbers_of_positives() -> None:
    draw = np.random.default_rng(0)
    ids = np.concatenate([np.arange(40), np.arange(20), np.arange(5)])
    simulated_ranks = []
    for _ in range(300):
        order = draw.permutation(ids)
        simulated_ranks += [int(np.flatnonzero(order == query)[0]) + 1 for query in range(40)]
    flat = torch.ones(40, 1), torch.ones(65, 1), torch.arange(40), torch.from_numpy(ids)
    result = retrieve(*flat)
    assert result.chance_recall[5] == pytest.approx(np.mean(np.array(simulated_ranks) <= 5), abs=0.01)
    assert result.chance_median_rank == pytest.approx(np.median(simulated_ranks), abs=1)


def test_recall_beyond_the_number_of_items_is_one() -> None:
    result = retrieve(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3), torch.arange(3))
    assert result.recall[10] == result.chance_recall[10] == 1.0


def test_metrics_include_chance() -> None:
    result = retrieve(torch.eye(4), torch.eye(4), torch.arange(4), torch.arange(4), ks=(1,))
    assert result.as_metrics("image_to_text") == {
        "image_to_text/recall@1": 1.0,
        "image_to_text/chance/recall@1": 0.25,
        "image_to_text/median_rank": 1.0,
        "image_to_text/chance/median_rank": 2.0,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_embedding_raises(value: float) -> None:
    broken = torch.eye(4)
    broken[2, 1] = value
    with pytest.raises(XmodalError, match="the embedding of item 2 is not finite"):
        retrieve(torch.eye(4), broken, torch.arange(4), torch.arange(4))


def test_a_query_without_a_positive_raises() -> None:
    with pytest.raises(XmodalError, match=r"query 3 \(id 9\) has no item"):
        retrieve(torch.eye(4), torch.eye(4), torch.tensor([0, 1, 2, 9]), torch.arange(4))


def test_empty_queries_raise() -> None:
    with pytest.raises(XmodalError, match="without a single query"):
        retrieve(torch.ones(0, 2), torch.ones(1, 2), torch.zeros(0).long(), torch.zeros(1).long())
