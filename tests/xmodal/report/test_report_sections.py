"""What a report computes: searches, the space of embeddings, where the time went, charts of any numbers."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.decode.text import clean_caption
from xmodal.report.charts.figures import Line, Mark, Reference, Row, histogram, intervals, lines, scatter
from xmodal.report.charts.images import heat_uri, photo_uri
from xmodal.report.charts.svg import spanning
from xmodal.report.held_out_pairs import Embedded, Pair, Pairs
from xmodal.report.sections.embedding_space import space
from xmodal.report.sections.gallery import gallery
from xmodal.report.sections.retrieval_results import measure
from xmodal.report.sections.time_spent import spent


def pairs(captions: list[str]) -> Pairs:
    stamp = np.zeros((112, 112, 3), np.uint8)
    made = [
        Pair(row=i, key=f"k{i}", raw={}, caption=clean_caption(text), captions=1, thumbnail=stamp)
        for i, text in enumerate(captions)
    ]
    return Pairs(uri="held-out", fingerprint="ab", corpus_rows=len(made), skipped=0, pairs=tuple(made))


def embedded(count: int, dim: int = 8, noise: float = 0.0, seed: int = 0) -> Embedded:
    draw = torch.Generator().manual_seed(seed)
    text = torch.nn.functional.normalize(torch.randn(count, dim, generator=draw), dim=1)
    image = torch.nn.functional.normalize(text + noise * torch.randn(count, dim, generator=draw), dim=1)
    return Embedded(image=image, text=text)


def test_a_perfect_model_hits_first_and_has_no_failures() -> None:
    found = gallery(pairs([f"caption {i}" for i in range(30)]), [embedded(30)])
    assert len(found.text_to_image) == len(found.image_to_text) == 6
    for search in found.text_to_image + found.image_to_text:
        (answers,) = search.answers
        assert answers.rank == 1 and answers.first[0].hit and answers.first[0].pair == search.pair
        assert answers.first[0].cosine == pytest.approx(1, abs=1e-5)
        assert [one.hit for one in answers.first].count(True) == 1
    assert found.worst_texts == found.worst_images == ()


def test_equal_captions_are_one_text_and_right_answers_of_each_other() -> None:
    same = [f"caption {i % 10}" for i in range(30)]
    unit = torch.nn.functional.normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    found = gallery(pairs(same), [Embedded(image=unit.repeat(3, 1), text=unit.repeat(3, 1))])
    assert found.captions == 10
    for search in found.text_to_image:
        assert [one.hit for one in search.answers[0].first] == [True, True, True, False, False]


def test_the_worst_are_those_whose_right_answer_came_last() -> None:
    model = embedded(40, noise=1.5)
    found = gallery(pairs([f"caption {i}" for i in range(40)]), [model])
    cosines = model.text @ model.image.T
    ranks = (cosines > cosines.diagonal()[:, None]).sum(1) + 1
    assert [s.answers[0].rank for s in found.worst_texts] == sorted(ranks.tolist(), reverse=True)[:4]


def test_figures_of_the_page_are_those_of_the_ranks() -> None:
    model = embedded(50, noise=1.0)
    found = measure(pairs([f"caption {i}" for i in range(50)]), model, step=7)
    cosines = model.image.double() @ model.text.double().T
    ranks = (cosines > cosines.diagonal()[:, None]).sum(1) + 1
    assert found.metrics["image_to_text/recall@5"] == pytest.approx((ranks <= 5).float().mean().item())
    assert found.chance["text_to_image/recall@10"] == pytest.approx(10 / 50)
    assert set(found.metrics) == set(found.chance) == set(found.interval)
    for name, (low, high) in found.interval.items():
        assert low <= found.metrics[name] <= high


def test_the_modality_gap_is_the_distance_of_the_means() -> None:
    model = embedded(60, noise=0.5)
    shifted = torch.nn.functional.normalize(model.image + torch.eye(8)[0] * 3, dim=1)
    ids = torch.arange(60)
    near, far = space(model, ids), space(Embedded(image=shifted, text=model.text), ids)
    assert near.gap < far.gap <= 2
    assert far.gap == pytest.approx((shifted.mean(0) - model.text.mean(0)).norm().item(), abs=1e-5)
    assert near.mean_right > near.mean_wrong
    assert near.right.sum() == pytest.approx(1) and near.wrong.sum() == pytest.approx(1)
    assert 0 < near.explained[1] <= near.explained[0] < 1
    assert near.matrix.shape == (48, 48)
    assert np.diag(near.matrix).mean() == pytest.approx(near.mean_right, abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_pairs_is_enough(count: int) -> None:
    few = pairs([f"caption {i}" for i in range(count)])
    model = embedded(count, noise=1.0)
    seen = space(model, few.ids)
    assert seen.image_points.shape == (count, 2)
    drawn = scatter(seen.image_points, seen.text_points, "plane") + histogram(
        seen.edges, seen.right, seen.wrong, "hills"
    )
    assert "nan" not in drawn
    assert gallery(few, [model]).captions == count


def line(step: int, rows: int, **more: float) -> dict:
    return {"step": step, "time": 1000.0 + step, "samples_per_s": 10.0, "rows/planned": rows, "rows/padding": 0} | more


def test_the_parts_of_the_time_are_all_of_it() -> None:
    logged = [
        line(10, 100, data_wait_share=0.5, first_batch_s=4.0),
        line(20, 200, data_wait_share=0.1, checkpoint_s=2.0),
    ]
    found = spent(logged, "1970-01-01T00:16:00+00:00")  # 960 s
    assert found is not None
    assert (found.first_batch_s, found.waiting_s, found.checkpoint_s, found.step_s) == (4.0, 6.0, 2.0, 12.0)
    assert found.total_s == pytest.approx(60.0) and found.other_s == pytest.approx(36.0)


@pytest.mark.parametrize(
    "lines_", [[], [{"step": 1, "time": 1.0}], [{"step": 1, "samples_per_s": None, "rows/planned": 3}]]
)
def test_without_a_pace_there_is_no_time_to_show(lines_: list) -> None:
    assert spent(lines_, "") is None


values = st.floats(-1e12, 1e12, allow_nan=False) | st.integers(-5, 5)


@settings(max_examples=60)
@given(st.lists(values, min_size=1, max_size=700), st.booleans())
def test_any_numbers_give_a_figure_inside_its_frame(y: list[float], from_zero: bool) -> None:
    series = [Line(label="a & <b>", slot=1, x=list(range(len(y))), y=y)]
    drawn = ET.fromstring(
        lines(series, "any <figure>", references=[Reference(value=0.5, label="<")], from_zero=from_zero)
    )
    (path,) = [one for one in drawn.iter() if one.get("class") == "line s1"]
    points = [tuple(map(float, p.split(","))) for p in path.get("d", "")[1:].split("L")]
    assert len(points) <= 240
    assert all(0 <= x <= 400 and 0 <= y_ <= 210 for x, y_ in points)


@given(st.lists(values, min_size=1), st.booleans())
def test_a_scale_holds_its_values_between_round_ticks(found: list[float], from_zero: bool) -> None:
    scale = spanning(found, 100, 0, from_zero=from_zero)
    slack = 1e-6 * (scale.high - scale.low)  # less than a pixel
    assert scale.low <= min(found) + slack and max(found) <= scale.high + slack
    assert scale.low < scale.high and len(scale.ticks()) >= 2
    assert not from_zero or scale.low <= 0 <= scale.high


def test_an_interval_lies_where_its_numbers_say() -> None:
    row = Row(label="text", marks=(Mark(slot=1, value=0.5, low=0.4, high=0.6),), chance=0.1)
    drawn = ET.fromstring(intervals([row], "results"))
    by_class = {one.get("class"): one for one in drawn.iter()}
    whisker, dot, chance = by_class["whisker s1"], by_class["dot s1"], by_class["chance"]
    at = [float(whisker.get("x1")), float(dot.get("cx")), float(whisker.get("x2"))]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.1)
    assert float(chance.get("x1")) < at[0]


def test_pictures_are_small_data_uris() -> None:
    photo = photo_uri(np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8))
    heat = heat_uri(np.array([[0.0, 0.5], [math.pi, -1.0]]), 0.0, 1.0)
    assert photo.startswith("data:image/jpeg;base64,") and len(photo) < 20_000
    assert heat.startswith("data:image/png;base64,") and len(heat) < 300
