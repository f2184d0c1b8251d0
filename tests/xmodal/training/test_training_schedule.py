"""The schedule is a pure function of the step with the stated shape; a region's draws are one of its coordinates."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import ConfigError
from xmodal.training.engine.randomness import repeatable, seed_of
from xmodal.training.engine.schedule import CosineSchedule, cosine_schedule

CPU = torch.device("cpu")


@st.composite
def schedules(draw):
    total = draw(st.integers(1, 2000))
    peak = draw(st.floats(1e-8, 10))
    return CosineSchedule(
        total_steps=total,
        warmup_steps=draw(st.integers(0, total)),
        peak=peak,
        floor=peak * draw(st.floats(0, 1)),
    )


@given(schedules(), st.integers(0, 4000))
def test_rate_rises_to_its_peak_then_falls_to_its_floor(schedule, step):
    here, after = schedule(step), schedule(step + 1)
    slack = 1e-12 * schedule.peak
    assert 0 < here <= schedule.peak + slack or schedule.floor == 0
    if step + 1 < schedule.warmup_steps:
        assert here < after
    elif step >= schedule.warmup_steps:
        assert after <= here + slack
        assert here >= schedule.floor - slack


@given(schedules())
def test_rate_meets_its_peak_and_its_floor_at_the_named_steps(schedule):
    if schedule.warmup_steps:
        assert math.isclose(schedule(schedule.warmup_steps - 1), schedule.peak)
    if schedule.warmup_steps < schedule.total_steps:
        assert math.isclose(schedule(schedule.warmup_steps), schedule.peak)
    assert math.isclose(schedule(schedule.total_steps + 1), schedule.floor, abs_tol=1e-12 * schedule.peak)


def test_half_way_down_is_the_mean_of_peak_and_floor():
    assert cosine_schedule(60, warmup_steps=20, total_steps=100, peak=1.0, floor=0.2) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "wrong", [{"warmup_steps": 11}, {"floor": 2.0}, {"peak": math.nan}, {"peak": -1.0}, {"warmup_steps": -1}]
)
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ConfigError):
        CosineSchedule(**({"peak": 1.0, "total_steps": 10} | wrong))


def draws(*coordinates: int) -> torch.Tensor:
    with repeatable(CPU, *coordinates):
        return torch.rand(4)


@given(st.tuples(*[st.integers(0, 2**62)] * 4), st.integers(0, 3), st.integers(1, 2**20))
def test_draws_depend_on_every_coordinate_and_on_nothing_else(coordinates, which, change):
    torch.rand(7)  # whatever was drawn before
    moved = list(coordinates)
    moved[which] += change
    assert torch.equal(draws(*coordinates), draws(*coordinates))
    assert seed_of(*coordinates) != seed_of(*moved)


def test_region_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    draws(1, 2, 3, 4)
    assert torch.equal(torch.get_rng_state(), before)
