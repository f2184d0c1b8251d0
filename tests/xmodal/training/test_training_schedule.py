"""The shape of the learning rate schedule, and random numbers that depend on a step's coordinates alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.errors import ConfigError
from xmodal.training.engine.randomness import derive_seed, seeded_rng
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
    rate, next_rate = schedule(step), schedule(step + 1)
    tolerance = 1e-12 * schedule.peak
    assert 0 < rate <= schedule.peak + tolerance or schedule.floor == 0
    if step + 1 < schedule.warmup_steps:
        assert rate < next_rate
    elif step >= schedule.warmup_steps:
        assert next_rate <= rate + tolerance
        assert rate >= schedule.floor - tolerance


@given(schedules())
def test_rate_is_peak_after_warmup_and_floor_at_the_end(schedule):
    if schedule.warmup_steps:
        assert math.isclose(schedule(schedule.warmup_steps - 1), schedule.peak)
    if schedule.warmup_steps < schedule.total_steps:
        assert math.isclose(schedule(schedule.warmup_steps), schedule.peak)
    assert math.isclose(schedule(schedule.total_steps + 1), schedule.floor, abs_tol=1e-12 * schedule.peak)


def test_rate_half_way_is_the_mean_of_peak_and_floor():
    assert cosine_schedule(60, warmup_steps=20, total_steps=100, peak=1.0, floor=0.2) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "wrong", [{"warmup_steps": 11}, {"floor": 2.0}, {"peak": math.nan}, {"peak": -1.0}, {"warmup_steps": -1}]
)
def test_impossible_schedules_raise(wrong):
    with pytest.raises(ConfigError):
        CosineSchedule(**({"peak": 1.0, "total_steps": 10} | wrong))


def random_numbers(*coordinates: int) -> torch.Tensor:
    with seeded_rng(CPU, *coordinates):
        return torch.rand(4)


@given(st.tuples(*[st.integers(0, 2**62)] * 4), st.integers(0, 3), st.integers(1, 2**20))
def test_random_numbers_depend_on_every_coordinate_and_on_nothing_else(coordinates, which, change):
    torch.rand(7)  # earlier use of the global generator must not matter
    changed = list(coordinates)
    changed[which] += change
    assert torch.equal(random_numbers(*coordinates), random_numbers(*coordinates))
    assert derive_seed(*coordinates) != derive_seed(*changed)


def test_seeded_rng_restores_the_global_generator():
    before = torch.get_rng_state()
    random_numbers(1, 2, 3, 4)
    assert torch.equal(torch.get_rng_state(), before)
