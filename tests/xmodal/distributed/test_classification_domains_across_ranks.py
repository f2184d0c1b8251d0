"""A classifier with a target: the domain gradient is added after the decision, for any number of ranks and chunks."""

import pytest
import torch

from support.adaptation_batches import rank_rows
from support.clip_batches import adapting, classifier, two_domains
from support.gloo_ranks import run
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.errors import ConfigError
from xmodal.losses.domain_critic import adversarial_loss
from xmodal.training.balance_options import GradientBalance
from xmodal.training.balanced_learning import build_objective
from xmodal.training.engine.accumulation import backward
from xmodal.training.engine.state_io import load_state, state_json, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.alignment_points import AlignmentPoints
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import StrengthSchedule

SPACES = ("features", "parameters")
BATCH = two_domains(seed=5, masked=(2, 11))
ARMS = [
    ("features", "dann", ("audio", "video"), {"critic_steps": 2}),
    ("parameters", "cdan", ("video", "joint"), {"critic_steps": 2}),
    ("parameters", "mcc", ("joint",), {}),
    ("features", "mmd", ("joint",), {"rule": "joint"}),
]


def gradients(state) -> dict[str, torch.Tensor]:
    state.optimizer.zero_grad()
    backward(state, BATCH)
    return {name: p.grad.clone() for name, p in state.objective.named_parameters()}


def decision(state) -> torch.Tensor:
    decider = state.space or state.objective.splitter
    return torch.cat([decider.decision.weights, decider.decision.gramian.flatten(1)], 1)


def domain_gradients() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return, by plain autograd, the gradients of the critics' loss at the encoders' and at the critics' parameters."""
    state = adapting()
    model, places = state.objective.model, state.objective.places
    tokens, masks = model.encode(BATCH)
    source, target = BATCH.valid.split(8)
    loss = 0.0
    for place, domain_loss in places.items():
        weight = masks[place].float()[:, :, None]
        logits = domain_loss.critic((tokens[place] * weight).sum(1) / weight.sum(1).clamp(min=1))
        loss = loss + adversarial_loss(*logits.split(8), source, target)
    loss.backward()
    parameters = state.objective.named_parameters()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters}
    encoders = {name: g for name, g in gradients.items() if name.startswith("model.encoders")}
    return encoders, {name: g for name, g in gradients.items() if name.startswith("places")}


@pytest.mark.parametrize("rule", ["uniform", "mmpareto", "stop_gradient"])
@pytest.mark.parametrize("space", SPACES)
def test_the_domain_gradient_is_added_after_the_decision(space: str, rule: str) -> None:
    without, with_domain = (adapting(space, rule=rule, strength=strength) for strength in (0.0, 0.5))
    decided, total = gradients(without), gradients(with_domain)
    assert torch.equal(decision(without), decision(with_domain))
    at_encoders, at_critics = domain_gradients()
    for name, expected in at_encoders.items():
        torch.testing.assert_close(total[name], decided[name] - 0.5 * expected, rtol=1e-4, atol=1e-6)
    assert max(expected.abs().max() for expected in at_encoders.values()) > 1e-3
    for name, expected in at_critics.items():  # a critic descends its loss, at weight 1 whatever the strength
        torch.testing.assert_close(total[name], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(decided[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_at_strength_0_the_target_does_not_change_the_training(space: str) -> None:
    """Rows of the target enter no loss and no accuracy of classes."""
    with_target = adapting(space, strength=0.0)
    source_only = build_objective(GradientBalance(method="mmpareto", space=space), classifier())
    expected = type(with_target).create(
        source_only[0], schedule=with_target.schedule, seed=3, space=source_only[1], optimizer="sgd"
    )
    actual = gradients(with_target)
    backward(expected, BATCH[0:8])
    for name, p in expected.objective.named_parameters():
        torch.testing.assert_close(actual[name], p.grad, rtol=1e-4, atol=1e-6)
    actual_metrics, expected_metrics = (state.objective.metrics() for state in (with_target, expected))
    assert all(
        actual_metrics[f"{head}/accuracy"] == expected_metrics[f"{head}/accuracy"]
        for head in ("audio", "video", "multimodal")
    )


def two_steps(arms=ARMS, rows_per_forward=None) -> list[dict[str, torch.Tensor]]:
    """Return the weights after two steps of every arm, together with the last metrics."""
    results = []
    for space, method, places, options in arms:
        state = adapting(space, method, places, rows_per_forward=rows_per_forward, **options)
        for step in range(2):
            metrics = train_step(state, rank_rows(two_domains(seed=step, masked=(3, 9)), current_rank(), world_size()))
        weights = {name: x.detach().clone() for name, x in state.objective.state_dict().items()}
        results.append(weights | {f"metric/{name}": torch.tensor(value) for name, value in metrics.items()})
    return results


def assert_same(actual, expected) -> None:
    for actual_weights, expected_weights in zip(actual, expected, strict=True):
        assert actual_weights.keys() == expected_weights.keys()
        for name, x in expected_weights.items():
            tolerance = {"rtol": 2e-4, "atol": 1e-6} if name.startswith("metric") else {"rtol": 1e-5, "atol": 1e-7}
            torch.testing.assert_close(
                actual_weights[name], x, **tolerance, msg=lambda message, name=name: name + message
            )


def test_two_ranks_end_with_the_weights_and_metrics_of_one() -> None:
    expected = two_steps()
    for actual in run(two_steps, 2):
        assert_same(actual, expected)
    dann_metrics = expected[0]
    assert {
        "metric/domain/audio/accuracy",
        "metric/domain/video/loss_per_ln2",
        "metric/domain/strength",
    } <= dann_metrics.keys()
    assert dann_metrics["metric/audio/gradient_ratio"] > 0 and 0 < dann_metrics["metric/video/target_spread"] < 1


def test_parameter_space_gives_the_same_step_for_any_chunk_size() -> None:
    """Chunks may hold rows of the target only."""
    arms = [arm for arm in ARMS if arm[0] == "parameters"]
    for chunked, whole in zip(two_steps(arms, 3), two_steps(arms), strict=True):
        for name, x in whole.items():
            if not name.startswith("metric"):
                torch.testing.assert_close(chunked[name], x, rtol=1e-4, atol=1e-6)


def test_a_chunk_of_target_rows_takes_no_decision() -> None:
    state = adapting("features", rows_per_forward=8)
    metrics = train_step(state, BATCH)
    assert metrics["audio/norm_0"] > 0 and metrics["video/norm_1"] > 0 and metrics["audio/gradient_ratio"] > 0


@pytest.mark.parametrize("space", SPACES)
def test_resume_yields_identical_metrics_weights_and_strengths(space: str) -> None:
    def steps(state, numbers):
        return [train_step(state, two_domains(seed=n)) for n in numbers]

    options = {"schedule": "ramp", "critic_steps": 2}
    whole, first, resumed = (adapting(space, **options) for _ in range(3))
    expected, actual = steps(whole, range(6)), steps(first, range(3))
    resumed.objective.load_state_dict({name: x.clone() for name, x in first.objective.state_dict().items()})
    load_state(resumed, {name: x.clone() for name, x in state_tensors(first).items()}, state_json(first))
    assert actual + steps(resumed, range(3, 6)) == expected
    assert all(torch.equal(x, resumed.objective.state_dict()[name]) for name, x in whole.objective.state_dict().items())


def test_an_unknown_alignment_point_raises_with_the_valid_ones() -> None:
    places = AlignmentPoints({"sound": DomainLoss("mmd", 16)}, StrengthSchedule(peak=1.0, steps=10))
    with pytest.raises(ConfigError, match="no alignment point 'sound'; valid: audio, joint, video"):
        build_objective(GradientBalance(), classifier(), places)
