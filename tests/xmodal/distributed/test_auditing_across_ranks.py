"""An audit tells what the other space would decide, and the run behind it is the run without; the guard of a step."""

import pytest
import torch

from support.clip_batches import classifier, clip_batch
from support.gloo_ranks import run
from support.toy_encoder import part_of
from xmodal.distributed.ranks import rank_in, world_size
from xmodal.errors import ConfigError, NeverSynchronised
from xmodal.training.balance_options import Balance
from xmodal.training.balanced_learning import audited, balanced
from xmodal.training.engine.metric_averager import Window
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
STEPS, EVERY = 4, 2
WHAT = ("same_sign", "weight_gap", "angle_degrees", "parameter_cosine", "feature_cosine")
CASES = [(space, rows) for space in ("features", "parameters") for rows in (None, 2)]


def state_of(space: str, rows_per_forward: int | None = None, *, every: int = 0) -> TrainState:
    balance = Balance(space=space, audit_every=every)
    objective, parameters = balanced(balance, classifier("transformer"))
    return TrainState.create(
        objective, schedule=SCHEDULE, seed=3, space=parameters, audit=audited(balance, objective),
        rows_per_forward=rows_per_forward,
    )  # fmt: skip


def mine(step: int):
    return part_of(clip_batch(12, seed=step, masked=(3,), unlabelled=(7,)), rank_in(), world_size())


def train(space: str, rows_per_forward: int | None, every: int) -> dict[str, torch.Tensor]:
    """Weights and the optimizer's memory after a few steps, and every figure of every step."""
    torch.manual_seed(rank_in())
    state = state_of(space, rows_per_forward, every=every)
    seen = {f"{step}/{name}": torch.tensor(value, dtype=torch.float64)
            for step in range(STEPS) for name, value in train_step(state, mine(step)).items()}  # fmt: skip
    moments = {f"{i}/{name}": x for i, of in enumerate(state.optimizer.state.values()) for name, x in of.items()}
    return seen | moments | dict(state.objective.state_dict()) | {"drawn next": torch.rand(3)}


def with_and_without() -> list[tuple[dict, dict]]:
    return [(train(*case, every=EVERY), train(*case, every=0)) for case in CASES]


@pytest.fixture(scope="module")
def on_ranks():
    return {1: [with_and_without()], 2: run(with_and_without, 2)}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("case", range(len(CASES)), ids=map(str, CASES))
def test_weights_with_an_audit_are_bit_for_bit_those_without(case, world, on_ranks):
    for found in on_ranks[world]:
        audit, plain = found[case]
        assert {name for name in audit if "audit/" not in name} == set(plain)
        assert all(torch.equal(x, audit[name]) for name, x in plain.items())


def first_audits() -> list[dict[str, torch.Tensor]]:
    """In both spaces, whole and in chunks, each at the weights of step 0."""
    states = [state_of(*case, every=1) for case in CASES]
    return [{name: x.detach() for name, x in state.audit(state, mine(0)).items()} for state in states]


def test_an_audit_is_the_same_for_any_number_of_ranks_and_chunks_and_in_either_space():
    """It decides for the global batch, so that all that may differ are the last bits."""
    expected = first_audits()[0]
    assert set(expected) == {f"audit/{encoder}/{what}" for encoder in ("audio", "video") for what in WHAT}
    assert any(expected[f"audit/{encoder}/angle_degrees"] > 0.1 for encoder in ("audio", "video"))
    everyone = [first_audits(), *run(first_audits, 2)]
    for found in (figures for of_rank in everyone for figures in of_rank):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert everyone[1] == everyone[2]  # to the last bit


def test_audits_stand_in_the_metrics_of_every_second_step(on_ranks):
    seen = {name for name in on_ranks[1][0][0][0] if "/audit/" in name}
    assert {int(name.partition("/")[0]) for name in seen} == {1, 3}


def test_each_space_hears_of_the_other_what_the_other_decides():
    """Both look at the same weights and batch at the first step."""
    features, parameters = (train_step(state_of(space, every=1), mine(0)) for space in ("features", "parameters"))
    for encoder in ("audio", "video"):
        for seen in (features, parameters):
            assert seen[f"audit/{encoder}/feature_cosine"] == pytest.approx(features[f"{encoder}/cosine"], abs=1e-5)
            assert seen[f"audit/{encoder}/parameter_cosine"] == pytest.approx(parameters[f"{encoder}/cosine"], abs=1e-5)
            agree = features[f"{encoder}/conflict"] == parameters[f"{encoder}/conflict"]
            assert seen[f"audit/{encoder}/same_sign"] == agree


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audit_every": -1}, "audit_every=-1"),
        ({"audit_every": 5, "method": "joint"}, "nothing to compare"),
        ({"audit_every": 5, "method": "mmpareto_per_tensor", "space": "parameters"}, "nothing to compare"),
    ],
)
def test_impossible_audits_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Balance(**options)


def test_a_window_tells_shares_of_conflict_and_means_of_audits():
    window = Window()
    for conflict, more in ((1.0, {}), (0.0, {"audit/audio/same_sign": 1.0}), (1.0, {"audit/audio/same_sign": 0.0})):
        window.add({"audio/conflict": conflict, "loss": 3.0} | more)
    assert window.take() == {"audio/conflict_share": pytest.approx(2 / 3), "audit/audio/same_sign": 0.5}
    assert window.take() == {}


def unsynchronised(space: str, forgotten: str) -> tuple[str, int]:
    """The guard's message from a step whose gradients no reduction touches, after a sound step; and updates done."""
    state = state_of(space)
    state.check_every = 1
    train_step(state, mine(0))
    if forgotten == "wrapper":
        state.ddp = None
    if forgotten == "reduction":
        state.space._send = lambda part: None
    try:
        train_step(state, mine(1))
    except NeverSynchronised as error:
        assert error.exit_code == 5
        return str(error), state.step
    return "passed", state.step


@pytest.mark.parametrize(("space", "forgotten"), [("features", "wrapper"), ("parameters", "reduction")])
def test_a_step_whose_gradients_were_never_averaged_is_refused_on_every_rank(space, forgotten):
    for message, step in run(unsynchronised, 2, space, forgotten):
        assert message.startswith("step 1: the gradients of ") and "were never averaged" in message
        assert step == 1  # nothing moved


@pytest.mark.parametrize("space", ["features", "parameters"])
def test_sound_steps_pass_the_guard(space):
    assert run(unsynchronised, 2, space, "nothing") == [("passed", 2)] * 2
