"""A classifier with a target: the domain gradient is added after the decision, whatever the ranks and the chunks."""

import pytest
import torch

from support.adaptation_batches import share_of
from support.clip_batches import adapting, classifier, two_domains
from support.gloo_ranks import run
from xmodal.distributed.ranks import rank_in, world_size
from xmodal.errors import ConfigError
from xmodal.losses.domain_critic import adversarial
from xmodal.training.balance_options import Balance
from xmodal.training.balanced_learning import balanced
from xmodal.training.engine.accumulation import backward
from xmodal.training.engine.state_io import load_state, state_plain, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.alignment_points import Places
from xmodal.training.objectives.domain import DomainLoss
from xmodal.training.objectives.domain_strength import Strength

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


def own_gradient() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """By plain autograd: of the critics' loss at the encoders' parameters, and at the critics' own."""
    state = adapting()
    model, places = state.objective.model, state.objective.places
    tokens, masks = model.encode(BATCH)
    source, target = BATCH.valid.split(8)
    loss = 0.0
    for place, one in places.items():
        weight = masks[place].float()[:, :, None]
        logits = one.critic((tokens[place] * weight).sum(1) / weight.sum(1).clamp(min=1))
        loss = loss + adversarial(*logits.split(8), source, target)
    loss.backward()
    named = state.objective.named_parameters()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}
    encoders = {name: g for name, g in found.items() if name.startswith("model.encoders")}
    return encoders, {name: g for name, g in found.items() if name.startswith("places")}


@pytest.mark.parametrize("rule", ["uniform", "mmpareto", "stop_gradient"])
@pytest.mark.parametrize("space", SPACES)
def test_the_domain_gradient_is_added_to_the_decided_one_and_decides_nothing(space: str, rule: str) -> None:
    none, half = (adapting(space, rule=rule, strength=strength) for strength in (0.0, 0.5))
    decided, both = gradients(none), gradients(half)
    assert torch.equal(decision(none), decision(half))
    at_encoders, at_critics = own_gradient()
    for name, own in at_encoders.items():
        torch.testing.assert_close(both[name], decided[name] - 0.5 * own, rtol=1e-4, atol=1e-6)
    assert max(own.abs().max() for own in at_encoders.values()) > 1e-3
    for name, own in at_critics.items():  # a critic descends its loss, at weight 1 whatever the strength
        torch.testing.assert_close(both[name], own, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(decided[name], own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_without_strength_the_classifier_learns_as_from_its_source_alone(space: str) -> None:
    """Rows of the target are in no loss and no accuracy of classes."""
    beside = adapting(space, strength=0.0)
    alone = balanced(Balance(method="mmpareto", space=space), classifier())
    expected = type(beside).create(alone[0], schedule=beside.schedule, seed=3, space=alone[1], optimizer="sgd")
    found = gradients(beside)
    backward(expected, BATCH[0:8])
    for name, p in expected.objective.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)
    mine, theirs = (state.objective.figures() for state in (beside, expected))
    assert all(mine[f"{head}/accuracy"] == theirs[f"{head}/accuracy"] for head in ("audio", "video", "multimodal"))


def trained(arms=ARMS, rows_per_forward=None) -> list[dict[str, torch.Tensor]]:
    """The weights after two steps of every arm, and the last metrics as weights too."""
    found = []
    for space, method, places, options in arms:
        state = adapting(space, method, places, rows_per_forward=rows_per_forward, **options)
        for step in range(2):
            metrics = train_step(state, share_of(two_domains(seed=step, masked=(3, 9)), rank_in(), world_size()))
        weights = {name: x.detach().clone() for name, x in state.objective.state_dict().items()}
        found.append(weights | {f"metric/{name}": torch.tensor(value) for name, value in metrics.items()})
    return found


def assert_same(found, expected) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, x in theirs.items():
            tolerance = {"rtol": 2e-4, "atol": 1e-6} if name.startswith("metric") else {"rtol": 1e-5, "atol": 1e-7}
            torch.testing.assert_close(mine[name], x, **tolerance, msg=lambda told, name=name: name + told)


def test_two_ranks_end_with_the_weights_and_metrics_of_one() -> None:
    alone = trained()
    for of_rank in run(trained, 2):
        assert_same(of_rank, alone)
    dann = alone[0]
    assert {"metric/domain/audio/accuracy", "metric/domain/video/loss_per_ln2", "metric/domain/strength"} <= dann.keys()
    assert dann["metric/audio/gradient_ratio"] > 0 and 0 < dann["metric/video/target_spread"] < 1


def test_parameter_space_takes_chunks_of_any_size() -> None:
    """Also such as hold rows of the target alone."""
    arms = [arm for arm in ARMS if arm[0] == "parameters"]
    for mine, theirs in zip(trained(arms, 3), trained(arms), strict=True):
        for name, x in theirs.items():
            if not name.startswith("metric"):
                torch.testing.assert_close(mine[name], x, rtol=1e-4, atol=1e-6)


def test_a_chunk_of_the_target_alone_decides_nothing() -> None:
    state = adapting("features", rows_per_forward=8)
    metrics = train_step(state, BATCH)
    assert metrics["audio/norm_0"] > 0 and metrics["video/norm_1"] > 0 and metrics["audio/gradient_ratio"] > 0


@pytest.mark.parametrize("space", SPACES)
def test_n_steps_and_n_more_after_a_resume_are_two_n_steps_with_the_same_strengths(space: str) -> None:
    def steps(state, numbers):
        return [train_step(state, two_domains(seed=n)) for n in numbers]

    options = {"schedule": "ramp", "critic_steps": 2}
    whole, first, again = (adapting(space, **options) for _ in range(3))
    expected, got = steps(whole, range(6)), steps(first, range(3))
    again.objective.load_state_dict({name: x.clone() for name, x in first.objective.state_dict().items()})
    load_state(again, {name: x.clone() for name, x in state_tensors(first).items()}, state_plain(first))
    assert got + steps(again, range(3, 6)) == expected
    assert all(torch.equal(x, again.objective.state_dict()[name]) for name, x in whole.objective.state_dict().items())


def test_a_place_that_the_classifier_has_not_is_named() -> None:
    places = Places({"sound": DomainLoss("mmd", 16)}, Strength(peak=1.0, steps=10))
    with pytest.raises(ConfigError, match="no place 'sound'; valid: audio, joint, video"):
        balanced(Balance(), classifier(), places)
