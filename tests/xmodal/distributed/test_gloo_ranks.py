"""The launcher of the distributed tests returns every rank's result and reports every failure in time."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from support.gloo_ranks import RankFailed, run


def sum_of_ranks(offset: float) -> torch.Tensor:
    x = torch.tensor(dist.get_rank() + offset)
    dist.all_reduce(x)
    return x + dist.get_rank()


def fail_on(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ValueError("broken on purpose")
    dist.barrier()


def die_on(rank: int) -> None:
    if dist.get_rank() == rank:
        os._exit(7)
    dist.barrier()


def sleep_on(rank: int) -> None:
    if dist.get_rank() == rank:
        time.sleep(60)


@pytest.mark.parametrize("world", [1, 3])
def test_results_are_in_the_order_of_the_ranks(world):
    total = sum(rank + 0.5 for rank in range(world))
    assert run(sum_of_ranks, world, 0.5) == [total + rank for rank in range(world)]


def test_an_error_is_reported_with_its_traceback():
    with pytest.raises(RankFailed, match=r"rank 1: Traceback[\s\S]*in fail_on[\s\S]*broken on purpose"):
        run(fail_on, 2, 1)


def test_a_dead_rank_is_reported():
    with pytest.raises(RankFailed, match="rank 0: died without an answer"):
        run(die_on, 2, 0)


def test_a_stuck_rank_is_killed_at_the_time_limit():
    start = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1: no answer"):
        run(sleep_on, 2, 1, timeout_s=5)
    assert time.monotonic() - start < 20
