"""The order of rows: every row once an epoch, the same for any world size, and resumable at any step."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data.stream import order
from xmodal.data.stream.order import StreamPlan

shuffles = pytest.mark.parametrize("shuffle", ["task", "wide", "full"])
extents = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=40)


def make_plan(spec, seed, batch, target_task_rows=64, *, shuffle="task"):
    rows, shard = (np.array(column) for column in zip(*spec, strict=True))
    return StreamPlan(rows, shard, seed, batch, shuffle=shuffle, target_task_rows=target_task_rows)


def rows_of(plan, tasks):
    """Yield the rows of some tasks in the order of delivery."""
    starts = np.cumsum(plan.extent_rows) - plan.extent_rows
    for task in tasks:
        if task.picks is not None:
            picked = task.picks[task.skip : task.stop].tolist()
            yield from (int(starts[extent]) + row if extent >= 0 else -1 for extent, row in picked)
            continue
        rows = np.concatenate(
            [starts[p.extent] + p.first + np.arange(p.rows) for p in task.slices] or [np.empty(0, int)]
        )
        for position in task.permutation()[task.skip : task.stop]:
            yield int(rows[position]) if position >= 0 else -1


def global_batches(plan, start, stop):
    rows = list(rows_of(plan, plan.tasks(start, stop)))
    return [rows[i : i + plan.global_batch] for i in range(0, len(rows), plan.global_batch)]


@shuffles
@given(spec=extents, seed=st.integers(0, 2**32), batch=st.integers(1, 200), epoch=st.integers(0, 3))
def test_an_epoch_delivers_every_row_once_and_pads_only_its_last_batch(shuffle, spec, seed, batch, epoch):
    plan = make_plan(spec, seed, batch, shuffle=shuffle)
    first = epoch * plan.steps_per_epoch
    batches = global_batches(plan, first, first + plan.steps_per_epoch)
    assert all(len(rows) == batch for rows in batches)
    flat = [row for rows in batches for row in rows]
    assert sorted(row for row in flat if row >= 0) == list(range(plan.rows))
    assert all(row >= 0 for rows in batches[:-1] for row in rows)


@shuffles
@given(spec=extents, seed=st.integers(0, 99), batch=st.integers(1, 100), data=st.data())
def test_resume_at_any_step_yields_the_rest_of_the_run(shuffle, spec, seed, batch, data):
    plan = make_plan(spec, seed, batch, shuffle=shuffle)
    stop = 2 * plan.steps_per_epoch + 1
    step = data.draw(st.integers(0, stop - 1))
    assert global_batches(plan, step, stop) == global_batches(plan, 0, stop)[step:]


@shuffles
@given(
    spec=extents,
    seed=st.integers(0, 99),
    batch=st.sampled_from([12, 24, 48, 96, 144]),
    row_bytes=st.integers(100, 4000),
)
def test_the_world_size_does_not_change_the_global_batches(shuffle, spec, seed, batch, row_bytes):
    plan = make_plan(spec, seed, batch, shuffle=shuffle)
    expected = global_batches(plan, 0, plan.steps_per_epoch)
    for world in (1, 2, 3, 4):
        size = order.choose_block_rows(batch, world, plan.task_rows, row_bytes, target_bytes=10_000)
        assert (batch // world) % size == 0 and plan.task_rows % size == 0
        rows = list(rows_of(plan, plan.tasks(0, plan.steps_per_epoch)))
        blocks = [rows[i : i + size] for i in range(0, len(rows), size)]
        ranks = [
            list(chain.from_iterable(blocks[rank::world])) for rank in range(world)
        ]  # as the splitter distributes them
        share = batch // world
        for step, batch_rows in enumerate(expected):
            assert sorted(chain.from_iterable(r[step * share : (step + 1) * share] for r in ranks)) == sorted(
                batch_rows
            )


@shuffles
@given(spec=extents, seed=st.integers(0, 99), batch=st.integers(1, 50))
def test_epochs_and_seeds_differ(shuffle, spec, seed, batch):
    plan = make_plan(spec, seed, batch, shuffle=shuffle)
    if plan.rows < 30:
        return
    first = global_batches(plan, 0, plan.steps_per_epoch)
    assert first != global_batches(plan, plan.steps_per_epoch, 2 * plan.steps_per_epoch)
    assert first != global_batches(make_plan(spec, seed + 1, batch, shuffle=shuffle), 0, plan.steps_per_epoch)


def test_without_shuffle_rows_come_in_the_order_of_the_corpus():
    plan = make_plan([(5, 0), (7, 1), (3, 1)], 0, 4, shuffle="off")
    assert list(chain.from_iterable(global_batches(plan, 0, 4))) == [*range(15), -1]


@shuffles
def test_the_order_equals_recorded_values(shuffle):
    """A change of these recorded rows would break the resume of every existing run."""
    plan = make_plan([(5, 0), (7, 1), (4, 2)], 7, 8, shuffle=shuffle)
    assert global_batches(plan, 0, 2) == RECORDED[shuffle]


RECORDED = {
    "task": [[12, 0, 14, 2, 13, 15, 3, 4], [11, 6, 9, 1, 8, 7, 10, 5]],
    "wide": [[10, 5, 8, 12, 3, 6, 0, 4], [13, 7, 1, 2, 9, 11, 14, 15]],
    "full": [[10, 5, 8, 12, 3, 6, 0, 4], [13, 7, 1, 2, 9, 11, 14, 15]],  # so small an epoch is one window
}


def test_neighbours_come_from_different_shards():
    shard = np.repeat(np.arange(20), 50)
    order_of_shards = shard[order.interleave_shards(shard, order.philox(0, 1))]
    distinct = [len(set(order_of_shards[i : i + 4])) for i in range(0, 1000, 4)]
    assert np.mean(distinct) > 3.6  # a plain permutation gives 3.7 too; sorted shards would give 1
    windows = [len(set(order_of_shards[i : i + 40])) for i in range(0, 1000, 40)]
    assert min(windows) >= 15  # every shard occurs throughout the epoch


def test_the_row_permutation_is_close_to_uniform():
    plan = make_plan([(64, 0)], 3, 64)
    first = [global_batches(plan, epoch, epoch + 1)[0][0] for epoch in range(400)]
    assert len(set(first)) > 55  # 400 draws of 64 values miss 0.1 values on average


@settings(max_examples=500)
@given(st.integers(1, 5000), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_shares_sum_to_the_batch_and_follow_the_weights(batch, weights):
    if batch < len(weights):
        with pytest.raises(ValueError, match="cannot be split"):
            order.split_global_batch(batch, weights)
        return
    shares = order.split_global_batch(batch, weights)
    assert sum(shares) == batch and min(shares) >= 1
    exact = [batch * weight / sum(weights) for weight in weights]
    assert all(abs(rows - share) <= max(0.05 * share, len(weights)) for rows, share in zip(shares, exact, strict=True))


def test_shares_of_round_weights_are_exact():
    assert order.split_global_batch(128, [3, 1]) == [96, 32]
    assert order.split_global_batch(128, [1, 1]) == [64, 64]
    assert order.split_global_batch(24, [1, 1]) == [12, 12]  # not 16 and 8, though 8 divides more worker counts


def test_row_randomness_depends_on_seed_epoch_and_row_alone():
    draw = {key: order.RowRandom(*key[:2])(key[2]).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(set(draw.values())) == 4
    random = order.RowRandom(0, 0)
    for row in (5, 1, 2**40, 0, 1):
        random(row).integers(0, 9, 3, dtype=np.int32)  # leaves half a 64-bit draw in the generator
    assert random(1).random() == draw[0, 0, 1]
