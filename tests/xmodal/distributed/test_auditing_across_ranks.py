"""An audit reports what the other gradient space would decide without changing the run; unsynchronised steps raise."""

import pytest
import torch

from support.clip_batches import classifier, clip_batch
from support.gloo_ranks import run
from support.toy_encoder import part_of
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.errors import ConfigError, NeverSynchronised
from xmodal.training.balance_options import GradientBalance
from xmodal.training.balanced_learning import build_audit, build_objective
from xmodal.training.engine.metric_averager import MetricAverager
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

SCHEDULE = CosineSchedule(peak=1e-2, total_steps=100, warmup_steps=3)
STEPS, EVERY = 4, 2
AUDIT_METRICS = ("same_sign", "weight_gap", "angle_degrees", "parameter_cosine", "feature_cosine")
CASES = [(space, rows) for space in ("features", "parameters") for rows in (None, 2)]


def state_of(space: str, rows_per_forward: int | None = None, *, audit_every: int = 0) -> TrainState:
    balance = GradientBalance(space=space, audit_every=audit_every)
    objective, parameters = build_objective(balance, classifier("transformer"))
    return TrainState.create(
        objective, schedule=SCHEDULE, seed=3, space=parameters, audit=build_audit(balance, objective),
        rows_per_forward=rows_per_forward,
    )  # fmt: skip


def rank_batch(step: int):
    return part_of(clip_batch(12, seed=step, masked=(3,), unlabelled=(7,)), current_rank(), world_size())


def train(space: str, rows_per_forward: int | None, audit_every: int) -> dict[str, torch.Tensor]:
    """Return weights and the optimizer's state after a few steps, and every metric of every step."""
    torch.manual_seed(current_rank())
    state = state_of(space, rows_per_forward, audit_every=audit_every)
    metrics = {f"{step}/{name}": torch.tensor(value, dtype=torch.float64)
            for step in range(STEPS) for name, value in train_step(state, rank_batch(step)).items()}  # fmt: skip
    moments = {f"{i}/{name}": x for i, of in enumerate(state.optimizer.state.values()) for name, x in of.items()}
    return metrics | moments | dict(state.objective.state_dict()) | {"drawn next": torch.rand(3)}


def with_and_without() -> list[tuple[dict, dict]]:
    return [(train(*case, audit_every=EVERY), train(*case, audit_every=0)) for case in CASES]


@pytest.fixture(scope="module")
def on_ranks():
    return {1: [with_and_without()], 2: run(with_and_without, 2)}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("case", range(len(CASES)), ids=map(str, CASES))
def test_an_audit_changes_no_bit_of_the_weights(case, world, on_ranks):
    for results in on_ranks[world]:
        audit, plain = results[case]
        assert {name for name in audit if "audit/" not in name} == set(plain)
        assert all(torch.equal(x, audit[name]) for name, x in plain.items())


def first_audits() -> list[dict[str, torch.Tensor]]:
    """Return the audits in both spaces, whole and in chunks, each at the weights of step 0."""
    states = [state_of(*case, audit_every=1) for case in CASES]
    return [{name: x.detach() for name, x in state.audit(state, rank_batch(0)).items()} for state in states]


def test_an_audit_does_not_depend_on_ranks_chunks_or_space():
    """It decides for the global batch, so only rounding may differ."""
    expected = first_audits()[0]
    assert set(expected) == {f"audit/{encoder}/{metric}" for encoder in ("audio", "video") for metric in AUDIT_METRICS}
    assert any(expected[f"audit/{encoder}/angle_degrees"] > 0.1 for encoder in ("audio", "video"))
    all_ranks = [first_audits(), *run(first_audits, 2)]
    for actual in (case_metrics for of_rank in all_ranks for case_metrics in of_rank):
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-4)
    assert all_ranks[1] == all_ranks[2]  # to the last bit


def test_audits_are_in_the_metrics_of_every_second_step(on_ranks):
    names = {name for name in on_ranks[1][0][0][0] if "/audit/" in name}
    assert {int(name.partition("/")[0]) for name in names} == {1, 3}


def test_the_audit_in_each_space_reports_what_the_other_decides():
    """Both use the same weights and batch at the first step."""
    features, parameters = (
        train_step(state_of(space, audit_every=1), rank_batch(0)) for space in ("features", "parameters")
    )
    for encoder in ("audio", "video"):
        for metrics in (features, parameters):
            assert metrics[f"audit/{encoder}/feature_cosine"] == pytest.approx(features[f"{encoder}/cosine"], abs=1e-5)
            assert metrics[f"audit/{encoder}/parameter_cosine"] == pytest.approx(
                parameters[f"{encoder}/cosine"], abs=1e-5
            )
            agree = features[f"{encoder}/conflict"] == parameters[f"{encoder}/conflict"]
            assert metrics[f"audit/{encoder}/same_sign"] == agree


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audit_every": -1}, "audit_every=-1"),
        ({"audit_every": 5, "method": "joint"}, "nothing to compare"),
        ({"audit_every": 5, "method": "mmpareto_per_tensor", "space": "parameters"}, "nothing to compare"),
    ],
)
def test_impossible_audits_raise_a_config_error(options, message):
    with pytest.raises(ConfigError, match=message):
        GradientBalance(**options)


def test_averaged_metrics_hold_conflict_shares_and_audit_means():
    window = MetricAverager()
    for conflict, more in ((1.0, {}), (0.0, {"audit/audio/same_sign": 1.0}), (1.0, {"audit/audio/same_sign": 0.0})):
        window.add({"audio/conflict": conflict, "loss": 3.0} | more)
    assert window.pop_means() == {"audio/conflict_share": pytest.approx(2 / 3), "audit/audio/same_sign": 0.5}
    assert window.pop_means() == {}


def step_without(space: str, skipped: str) -> tuple[str, int]:
    """Return the error message of a step that skips the reduction, after a valid step, and the updates done."""
    state = state_of(space)
    state.check_every = 1
    train_step(state, rank_batch(0))
    if skipped == "wrapper":
        state.ddp = None
    if skipped == "reduction":
        state.space._send = lambda part: None
    try:
        train_step(state, rank_batch(1))
    except NeverSynchronised as error:
        assert error.exit_code == 5
        return str(error), state.step
    return "passed", state.step


@pytest.mark.parametrize(("space", "skipped"), [("features", "wrapper"), ("parameters", "reduction")])
def test_a_step_without_reduction_raises_on_every_rank(space, skipped):
    for message, step in run(step_without, 2, space, skipped):
        assert message.startswith("step 1: the gradients of ") and "were never averaged" in message
        assert step == 1  # nothing moved


@pytest.mark.parametrize("space", ["features", "parameters"])
def test_steps_with_reduction_pass_the_check(space):
    assert run(step_without, 2, space, "nothing") == [("passed", 2)] * 2
