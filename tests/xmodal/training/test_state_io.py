"""Saving and loading a training state: complete, through the file formats, and with an error if it does not fit."""

import copy
import json

import pytest
import torch
from safetensors.torch import load, save

from support.toy_encoder import ToyEncoder, toy_batch
from xmodal.errors import CheckpointError
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_json, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.contrastive import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)


def new_state(*, loss="info_nce", weight_decay=0.2, seed=3, optimizer="adamw", momentum=0.9, **toy) -> TrainState:
    objective = ContrastiveObjective(ToyEncoder(**toy), loss)
    options = {"optimizer": optimizer, "momentum": momentum, "weight_decay": weight_decay}
    return TrainState.create(objective, schedule=SCHEDULE, seed=seed, **options)


def trained_state() -> TrainState:
    state = new_state()
    for step in range(2):
        train_step(state, toy_batch(8, seed=step))
    return state


def round_trip(state: TrainState) -> tuple[dict[str, torch.Tensor], dict]:
    """Save and load a state through the bytes of the file formats."""
    return load(save(state_tensors(state))), json.loads(json.dumps(state_json(state)))


def test_state_round_trips_through_safetensors_and_json():
    state, loaded = trained_state(), new_state()
    load_state(loaded, *round_trip(state))
    assert state_json(loaded) == state_json(state) | {"groups": state_json(loaded)["groups"]}
    for name, x in state_tensors(state).items():
        assert torch.equal(x, state_tensors(loaded)[name])
    assert "exp_avg/model.log_scale" in state_tensors(state)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_resumed_sgd_yields_identical_weights(momentum):
    state, loaded = (new_state(optimizer="sgd", momentum=momentum) for _ in range(2))
    for step in range(2):
        train_step(state, toy_batch(8, seed=step))
    loaded.objective.load_state_dict(state.objective.state_dict())
    load_state(loaded, *round_trip(state))
    for resumed in (state, loaded):
        train_step(resumed, toy_batch(8, seed=5))
    for name, x in state.objective.state_dict().items():
        assert torch.equal(x, loaded.objective.state_dict()[name])
    with pytest.raises(CheckpointError, match="momentum="):
        load_state(new_state(optimizer="sgd", momentum=0.5), *round_trip(loaded))


def test_state_before_the_first_update_has_no_tensors_and_loads():
    tensors, values = round_trip(new_state())
    assert tensors == {}
    load_state(new_state(), tensors, values)


def test_load_state_copies_the_tensors():
    state, loaded = trained_state(), new_state()
    load_state(loaded, state_tensors(state), state_json(state))
    before = {name: x.clone() for name, x in state_tensors(loaded).items()}
    train_step(state, toy_batch(8))
    assert all(torch.equal(x, state_tensors(loaded)[name]) for name, x in before.items())


def remove_moment(tensors, values):
    del tensors["exp_avg/model.log_scale"]


def change_shape(tensors, values):
    tensors["exp_avg_sq/model.log_scale"] = torch.zeros(2)


def add_unknown_moment(tensors, values):
    tensors["exp_avg/model.other"] = torch.zeros(2)


def raise_format(tensors, values):
    values["format"] = 2


def remove_groups(tensors, values):
    del values["groups"]


def reorder_parameters(tensors, values):
    values["groups"][1]["parameters"].reverse()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_moment, "lacks 'exp_avg/model.log_scale' and has in excess nothing"),
        (change_shape, r"'exp_avg_sq/model.log_scale' has shape \[2\], here it needs \[\]"),
        (add_unknown_moment, "has in excess 'exp_avg/model.other'"),
        (raise_format, "format 2; this version reads 1"),
        (remove_groups, "lacks groups"),
        (reorder_parameters, "group 1 holds the same parameters in another order"),
    ],
)
def test_mismatch_raises_and_leaves_the_state_unchanged(change, message):
    tensors, values = round_trip(trained_state())
    change(tensors, values)
    state = new_state()
    before = copy.deepcopy(state_json(state))
    with pytest.raises(CheckpointError, match=message):
        load_state(state, tensors, values)
    assert state_json(state) == before
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
def test_checkpoint_of_another_run_raises(options, message):
    tensors, values = round_trip(trained_state())
    with pytest.raises(CheckpointError, match=message):
        load_state(new_state(**options), tensors, values)
