"""An evaluation between two steps leaves no trace: weights, statistics, modes and random numbers are as without it."""

import pytest
import torch

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.training.engine.evaluation_mode import evaluating
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objective import ContrastiveObjective


def state_of_a_toy() -> TrainState:
    model = ToyEncoder(dropout=0.3, batch_norm=True)
    return TrainState.create(ContrastiveObjective(model), schedule=CosineSchedule(peak=1e-2, total_steps=6), seed=3)


def trained(*, disturbed: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(5)
    state = state_of_a_toy()
    for step in range(6):
        train_step(state, toy_batch(12, seed=step))
        if disturbed:
            with evaluating(state):
                state.objective.model.encode("image", toy_batch(7, seed=99))
                torch.rand(3)  # as a tower that draws in evaluation would
    return [x.detach() for x in (*state.objective.parameters(), *state.objective.buffers())], torch.rand(4)


def test_what_is_trained_is_the_same_bit_for_bit() -> None:
    (plain, draws), (disturbed, later_draws) = trained(disturbed=False), trained(disturbed=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, disturbed, strict=True))
    assert torch.equal(draws, later_draws)


def test_the_model_evaluates_inside_and_trains_again_after_an_error() -> None:
    state = state_of_a_toy()
    frozen = state.objective.model.towers["image"].norm.eval()
    kept = frozen.running_mean.clone()
    with pytest.raises(KeyError), evaluating(state):
        assert not any(module.training for module in state.objective.modules())
        first, second = (state.objective.model.encode("image", toy_batch(7)) for _ in range(2))
        assert torch.equal(first, second) and not first.requires_grad
        frozen.running_mean += 1
        raise KeyError
    assert state.objective.training and not frozen.training
    assert torch.equal(frozen.running_mean, kept)
