"""Tests of what a report computes: gallery searches, embedding-space statistics, time by activity, charts."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.decode.text import clean_caption
from xmodal.report.charts.figures import (
    BarRow,
    IntervalMark,
    IntervalRow,
    ReferenceLine,
    Series,
    bar_chart,
    histogram_chart,
    interval_chart,
    line_chart,
    scatter_chart,
)
from xmodal.report.charts.images import heatmap_data_uri, jpeg_data_uri
from xmodal.report.charts.svg import fit_scale
from xmodal.report.held_out_pairs import PairEmbeddings, ReportPair, ReportPairs
from xmodal.report.sections.embedding_space import embedding_space
from xmodal.report.sections.gallery import search_by_rank_change, search_gallery
from xmodal.report.sections.retrieval_results import measure_retrieval
from xmodal.report.sections.time_spent import time_spent


def held_out_pairs(captions: list[str]) -> ReportPairs:
    thumbnail = np.zeros((112, 112, 3), np.uint8)
    pairs = [
        ReportPair(row=i, key=f"k{i}", raw={}, caption=clean_caption(text), caption_count=1, thumbnail=thumbnail)
        for i, text in enumerate(captions)
    ]
    return ReportPairs(uri="held-out", fingerprint="ab", corpus_rows=len(pairs), skipped=0, pairs=tuple(pairs))


def numbered_pairs(count: int) -> ReportPairs:
    return held_out_pairs([f"caption {i}" for i in range(count)])


def random_embeddings(count: int, dim: int = 8, noise: float = 0.0, seed: int = 0) -> PairEmbeddings:
    """Return random unit vectors as texts, and the same with noise as images."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)
    image = torch.nn.functional.normalize(text + noise * torch.randn(count, dim, generator=generator), dim=1)
    return PairEmbeddings(image=image, text=text)


def test_a_perfect_model_ranks_every_correct_answer_first() -> None:
    searches = search_gallery(numbered_pairs(30), [random_embeddings(30)])
    assert len(searches.text_to_image) == len(searches.image_to_text) == 6
    for search in searches.text_to_image + searches.image_to_text:
        (ranked,) = search.results
        assert ranked.rank == 1 and ranked.first[0].correct and ranked.first[0].pair == search.pair
        assert ranked.first[0].cosine == pytest.approx(1, abs=1e-5)
        assert [hit.correct for hit in ranked.first].count(True) == 1
    assert searches.worst_texts == searches.worst_images == ()


def test_pairs_with_equal_captions_are_correct_answers_of_each_other() -> None:
    captions = [f"caption {i % 10}" for i in range(30)]
    unit = torch.nn.functional.normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    model = PairEmbeddings(image=unit.repeat(3, 1), text=unit.repeat(3, 1))
    searches = search_gallery(held_out_pairs(captions), [model])
    assert searches.captions == 10
    for search in searches.text_to_image:
        assert [hit.correct for hit in search.results[0].first] == [True, True, True, False, False]


def test_queries_before_and_after_are_spread_over_the_change_of_their_rank() -> None:
    models = random_embeddings(50, noise=2.0), random_embeddings(50, noise=0.5)
    searches = search_by_rank_change(numbered_pairs(50), *models, 5)
    gain = [math.log(search.results[0].rank / search.results[1].rank) for search in searches]
    all_cosines = [model.text @ model.image.T for model in models]
    before, after = [(cosines > cosines.diagonal()[:, None]).sum(1) + 1 for cosines in all_cosines]
    expected = sorted((before / after).log().tolist(), reverse=True)[5::10]
    assert gain == pytest.approx(expected, abs=1e-5)
    assert len(search_by_rank_change(numbered_pairs(2), random_embeddings(2), random_embeddings(2), 5)) == 2


def test_the_worst_queries_are_those_with_the_largest_rank() -> None:
    model = random_embeddings(40, noise=1.5)
    searches = search_gallery(numbered_pairs(40), [model])
    cosines = model.text @ model.image.T
    ranks = (cosines > cosines.diagonal()[:, None]).sum(1) + 1
    assert [s.results[0].rank for s in searches.worst_texts] == sorted(ranks.tolist(), reverse=True)[:4]


def test_measured_retrieval_equals_the_recall_of_the_ranks() -> None:
    model = random_embeddings(50, noise=1.0)
    record = measure_retrieval(numbered_pairs(50), model, step=7)
    cosines = model.image.double() @ model.text.double().T
    ranks = (cosines > cosines.diagonal()[:, None]).sum(1) + 1
    assert record.metrics["image_to_text/recall@5"] == pytest.approx((ranks <= 5).float().mean().item())
    assert record.chance["text_to_image/recall@10"] == pytest.approx(10 / 50)
    assert set(record.metrics) == set(record.chance) == set(record.interval)
    for name, (low, high) in record.interval.items():
        assert low <= record.metrics[name] <= high


def test_the_modality_gap_is_the_distance_of_the_means() -> None:
    model = random_embeddings(60, noise=0.5)
    shifted = torch.nn.functional.normalize(model.image + torch.eye(8)[0] * 3, dim=1)
    ids = torch.arange(60)
    near, far = embedding_space(model, ids), embedding_space(PairEmbeddings(image=shifted, text=model.text), ids)
    assert near.gap < far.gap <= 2
    assert far.gap == pytest.approx((shifted.mean(0) - model.text.mean(0)).norm().item(), abs=1e-5)


def test_matching_pairs_have_higher_cosines_in_histogram_and_matrix() -> None:
    space = embedding_space(random_embeddings(60, noise=0.5), torch.arange(60))
    assert space.mean_matching > space.mean_other
    assert space.matching.sum() == pytest.approx(1) and space.other.sum() == pytest.approx(1)
    assert 0 < space.explained[1] <= space.explained[0] < 1
    assert space.matrix.shape == (48, 48)
    assert np.diag(space.matrix).mean() == pytest.approx(space.mean_matching, abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_to_three_pairs_are_enough(count: int) -> None:
    pairs, model = numbered_pairs(count), random_embeddings(count, noise=1.0)
    space = embedding_space(model, pairs.ids)
    assert space.image_points.shape == (count, 2)
    projection = scatter_chart(space.image_points, space.text_points, "plane")
    histogram = histogram_chart(space.edges, space.matching, space.other, "histograms")
    assert "nan" not in projection + histogram
    assert search_gallery(pairs, [model]).captions == count


def metrics_line(step: int, rows: int, **more: float) -> dict:
    return {"step": step, "time": 1000.0 + step, "samples_per_s": 10.0, "rows/planned": rows, "rows/padding": 0} | more


def test_the_activities_add_up_to_the_wall_clock_time() -> None:
    logged = [
        metrics_line(10, 100, data_wait_share=0.5, first_batch_s=4.0),
        metrics_line(20, 200, data_wait_share=0.1, checkpoint_s=2.0),
    ]
    spent = time_spent(logged, "1970-01-01T00:16:00+00:00")  # 960 s
    assert spent is not None
    assert (spent.first_batch_s, spent.waiting_s, spent.checkpoint_s, spent.step_s) == (4.0, 6.0, 2.0, 12.0)
    assert spent.total_s == pytest.approx(60.0) and spent.other_s == pytest.approx(36.0)


@pytest.mark.parametrize(
    "lines", [[], [{"step": 1, "time": 1.0}], [{"step": 1, "samples_per_s": None, "rows/planned": 3}]]
)
def test_time_is_none_without_a_logged_throughput(lines: list) -> None:
    assert time_spent(lines, "") is None


values = st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-5, 5)


@settings(max_examples=60)
@given(st.lists(values, min_size=1, max_size=700), st.booleans())
def test_a_line_chart_of_any_numbers_stays_inside_its_frame(y: list[float], from_zero: bool) -> None:
    series = [Series(label="a & <b>", color=1, x=list(range(len(y))), y=y)]
    references = [ReferenceLine(value=0.5, label="<")]
    chart = ET.fromstring(line_chart(series, "any <figure>", references=references, from_zero=from_zero))
    (path,) = [element for element in chart.iter() if element.get("class") == "line s1"]
    points = [tuple(map(float, p.split(","))) for p in path.get("d", "")[1:].split("L")]
    assert len(points) <= 240
    assert all(0 <= x <= 400 and 0 <= y_ <= 210 for x, y_ in points)


@given(st.lists(values, min_size=1), st.booleans())
def test_a_fitted_scale_contains_its_values_between_round_ticks(numbers: list[float], from_zero: bool) -> None:
    scale = fit_scale(numbers, 100, 0, from_zero=from_zero)
    slack = 1e-6 * (scale.high - scale.low)  # less than a pixel
    assert scale.low <= min(numbers) + slack and max(numbers) <= scale.high + slack
    assert scale.low < scale.high and len(scale.ticks()) >= 2
    assert not from_zero or scale.low <= 0 <= scale.high


def test_an_interval_chart_is_drawn_to_scale() -> None:
    row = IntervalRow(label="text", marks=(IntervalMark(color=1, value=0.5, low=0.4, high=0.6),), chance=0.1)
    chart = ET.fromstring(interval_chart([row], "results"))
    by_class = {element.get("class"): element for element in chart.iter()}
    whisker, dot, chance = by_class["whisker s1"], by_class["dot s1"], by_class["chance"]
    x = [float(whisker.get("x1")), float(dot.get("cx")), float(whisker.get("x2"))]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.1)
    assert float(chance.get("x1")) < x[0]


def test_a_bar_chart_is_drawn_to_scale() -> None:
    rows = [BarRow(label="a & <b>", value=0.1, color=1), BarRow(label="c", value=0.4, sd=0.1)]
    svg = ET.fromstring(bar_chart(rows, "recall", chance=0.05))
    first, second = (float(part.get("width", "")) for part in svg.iter() if "bar" in part.get("class", "").split())
    assert second == pytest.approx(4 * first, abs=0.1)
    classes = [part.get("class") for part in svg.iter()]
    assert classes.count("error") == 1 and classes.count("chance") == 2
    chance_x = next(float(part.get("x1", "")) for part in svg.iter() if part.get("class") == "chance")
    assert chance_x == pytest.approx(first / 2, abs=0.1)


def test_images_are_small_data_uris() -> None:
    photo = jpeg_data_uri(np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8))
    heatmap = heatmap_data_uri(np.array([[0.0, 0.5], [math.pi, -1.0]]), 0.0, 1.0)
    assert photo.startswith("data:image/jpeg;base64,") and len(photo) < 20_000
    assert heatmap.startswith("data:image/png;base64,") and len(heatmap) < 300
