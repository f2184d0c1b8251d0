"""A widely shuffled epoch: every row once, neighbours far apart, and rows that are read in runs all the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.stream.lanes import Lanes, permute

CORPORA = [200_000, 100_000]  # rows


def epoch(lanes, key=5):
    """Return the row at every position of an epoch, as [steps, global_batch]."""
    positions = np.arange(lanes.steps * lanes.global_batch)
    return lanes.rows_at(positions, key).reshape(lanes.steps, lanes.global_batch)


def step_of_row(order, rows):
    step = np.full(rows, -1)
    for number, batch in enumerate(order):
        step[batch[batch >= 0]] = number
    return step


@given(st.integers(1, 5000), st.integers(1, 200), st.booleans(), st.integers(0, 2**64 - 1))
def test_every_row_comes_once_and_only_the_last_step_is_padded(rows, batch, whole, key):
    order = epoch(Lanes(rows=rows, global_batch=batch, whole=whole), key)
    assert sorted(order[order >= 0].tolist()) == list(range(rows))
    assert (order[:-1] >= 0).all()


@pytest.mark.parametrize("rows", CORPORA)
@pytest.mark.parametrize(("batch", "limit"), [(64, 0.01), (256, 0.01), (1024, 0.02), (8192, 0.2)])
def test_neighbours_of_the_corpus_are_seldom_in_one_batch(rows, batch, limit):
    step = step_of_row(epoch(Lanes(rows=rows, global_batch=batch)), rows)
    assert (step[1:] == step[:-1]).mean() <= limit


@pytest.mark.parametrize("rows", CORPORA)
def test_of_five_captions_of_an_image_few_meet_in_a_batch(rows):
    order = epoch(Lanes(rows=rows, global_batch=1024))[:-1]
    repeated = [len(batch) - len(np.unique(batch // 5)) for batch in order]
    assert np.mean(repeated) <= 30


def test_a_step_needs_about_as_many_new_rows_as_it_delivers():
    """Windows begin one after the other: reading never comes in bursts, apart from the first step."""
    lanes = Lanes(rows=400_000, global_batch=256)
    runs = epoch(lanes) // 256  # the extents of 256 rows that a step touches
    seen: set[int] = set()
    new = []
    for step in runs:
        new.append(len(set(step.tolist()) - seen))
        seen |= set(step.tolist())
    assert max(new[1:]) <= 200 and max(new[130:-130]) <= 60  # of 1,563 extents; the first step alone takes some 130


def test_ten_positions_cost_no_more_in_a_corpus_of_a_trillion_rows():
    rows = 10**12
    found = Lanes(rows=rows, global_batch=131_072).rows_at(np.arange(10) + 10**11, key=2**63)
    assert len(set(found.tolist())) == 10 and (found >= 0).all() and (found < rows).all()


def test_another_key_gives_another_order_and_the_recorded_one_stays():
    """A change of these recorded rows would break the resume of every existing run."""
    lanes = Lanes(rows=5000, global_batch=16)
    assert not np.array_equal(epoch(lanes, 1), epoch(lanes, 2))
    assert epoch(lanes, 7)[[0, 100, 200]].tolist() == RECORDED


RECORDED = [
    [319, 657, 168, 724, 475, 864, 39, 353, 2666, 2639, 2585, 2604, 2505, 2575, 2998, 2608],
    [719, 602, 437, 259, 38, 849, 638, 40, 3085, 3574, 3503, 3743, 3951, 3524, 4004, 3383],
    [1182, 1819, 1876, 1590, 1928, 1148, 1282, 1567, 4498, 4051, 4576, 4677, 4847, 4902, 4060, 4036],
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000])
def test_a_permutation_maps_every_number_to_another_place_by_its_key(size):
    numbers, sizes = np.arange(size), np.full(size, size)
    images = [permute(numbers, sizes, np.full(size, key, np.uint64)) for key in range(50)]
    assert all(sorted(image.tolist()) == list(range(size)) for image in images)
    first = [image[0] for image in images]
    assert len(set(first)) >= min(size, 25) * 0.8
