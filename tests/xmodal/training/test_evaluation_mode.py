"""An evaluation between two steps does not change weights, statistics, modes or random numbers."""

import pytest
import torch

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.training.engine.evaluation_mode import evaluation_mode
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.contrastive import ContrastiveObjective


def toy_state() -> TrainState:
    model = ToyEncoder(dropout=0.3, batch_norm=True)
    return TrainState.create(ContrastiveObjective(model), schedule=CosineSchedule(peak=1e-2, total_steps=6), seed=3)


def train(*, with_evaluation: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(5)
    state = toy_state()
    for step in range(6):
        train_step(state, toy_batch(12, seed=step))
        if with_evaluation:
            with evaluation_mode(state):
                state.objective.model.encode("image", toy_batch(7, seed=99))
                torch.rand(3)  # like a tower that draws random numbers in evaluation
    return [x.detach() for x in (*state.objective.parameters(), *state.objective.buffers())], torch.rand(4)


def test_evaluation_between_steps_leaves_training_bit_identical() -> None:
    (plain, draws), (evaluated, later_draws) = train(with_evaluation=False), train(with_evaluation=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, evaluated, strict=True))
    assert torch.equal(draws, later_draws)


def test_modes_and_buffers_are_restored_after_an_error() -> None:
    state = toy_state()
    frozen = state.objective.model.towers["image"].norm.eval()
    before = frozen.running_mean.clone()
    with pytest.raises(KeyError), evaluation_mode(state):
        assert not any(module.training for module in state.objective.modules())
        first, second = (state.objective.model.encode("image", toy_batch(7)) for _ in range(2))
        assert torch.equal(first, second) and not first.requires_grad
        frozen.running_mean += 1
        raise KeyError
    assert state.objective.training and not frozen.training
    assert torch.equal(frozen.running_mean, before)
