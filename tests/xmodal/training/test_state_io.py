"""What a checkpoint stores of a training state is plain, complete, and refused where it does not fit."""

import copy
import json

import pytest
import torch
from safetensors.torch import load, save

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.errors import CheckpointError
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_plain, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objective import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)


def new_state(*, loss="info_nce", weight_decay=0.2, seed=3, optimizer="adamw", momentum=0.9, **toy) -> TrainState:
    objective = ContrastiveObjective(ToyEncoder(**toy), loss)
    options = {"optimizer": optimizer, "momentum": momentum, "weight_decay": weight_decay}
    return TrainState.create(objective, schedule=SCHEDULE, seed=seed, **options)


def trained() -> TrainState:
    state = new_state()
    for step in range(2):
        train_step(state, toy_batch(8, seed=step))
    return state


def stored(state: TrainState) -> tuple[dict[str, torch.Tensor], dict]:
    """Through the bytes of the file formats."""
    return load(save(state_tensors(state))), json.loads(json.dumps(state_plain(state)))


def test_a_state_survives_safetensors_and_json():
    state, again = trained(), new_state()
    load_state(again, *stored(state))
    assert state_plain(again) == state_plain(state) | {"groups": state_plain(again)["groups"]}
    for name, x in state_tensors(state).items():
        assert torch.equal(x, state_tensors(again)[name])
    assert "exp_avg/model.log_scale" in state_tensors(state)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_goes_on_as_if_nothing_had_happened(momentum):
    state, again = (new_state(optimizer="sgd", momentum=momentum) for _ in range(2))
    for step in range(2):
        train_step(state, toy_batch(8, seed=step))
    again.objective.load_state_dict(state.objective.state_dict())
    load_state(again, *stored(state))
    for one in (state, again):
        train_step(one, toy_batch(8, seed=5))
    for name, x in state.objective.state_dict().items():
        assert torch.equal(x, again.objective.state_dict()[name])
    with pytest.raises(CheckpointError, match="momentum="):
        load_state(new_state(optimizer="sgd", momentum=0.5), *stored(again))


def test_before_the_first_update_there_is_nothing_to_store_and_that_loads():
    tensors, plain = stored(new_state())
    assert tensors == {}
    load_state(new_state(), tensors, plain)


def test_loading_copies():
    state, again = trained(), new_state()
    load_state(again, state_tensors(state), state_plain(state))
    before = {name: x.clone() for name, x in state_tensors(again).items()}
    train_step(state, toy_batch(8))
    assert all(torch.equal(x, state_tensors(again)[name]) for name, x in before.items())


def without(tensors, plain):
    del tensors["exp_avg/model.log_scale"]


def with_another_shape(tensors, plain):
    tensors["exp_avg_sq/model.log_scale"] = torch.zeros(2)


def with_a_stranger(tensors, plain):
    tensors["exp_avg/model.other"] = torch.zeros(2)


def of_the_future(tensors, plain):
    plain["format"] = 2


def damaged(tensors, plain):
    del plain["groups"]


def in_another_order(tensors, plain):
    plain["groups"][1]["parameters"].reverse()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "lacks 'exp_avg/model.log_scale' and has in excess nothing"),
        (with_another_shape, r"'exp_avg_sq/model.log_scale' has shape \[2\], here it needs \[\]"),
        (with_a_stranger, "has in excess 'exp_avg/model.other'"),
        (of_the_future, "format 2; this version reads 1"),
        (damaged, "lacks groups"),
        (in_another_order, "group 1 holds the same parameters in another order"),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change, message):
    tensors, plain = stored(trained())
    change(tensors, plain)
    state = new_state()
    before = copy.deepcopy(state_plain(state))
    with pytest.raises(CheckpointError, match=message):
        load_state(state, tensors, plain)
    assert state_plain(state) == before
    assert state_tensors(state) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "seed 3, this run 4"),
        ({"weight_decay": 0.1}, "weight_decay=0.2, this run has 0.1"),
        ({"loss": "sigmoid"}, "lacks 'model.logit_bias'"),
        ({"width": 32}, "has shape"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(options, message):
    tensors, plain = stored(trained())
    with pytest.raises(CheckpointError, match=message):
        load_state(new_state(**options), tensors, plain)
