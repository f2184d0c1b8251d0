"""Gamma under optimizers and clipping: where it cancels, where it survives, and that a gain is the same under SGD."""

import copy

import pytest
import torch

from support.two_modalities import AudioVideo, gradients_of, rows_of
from xmodal.errors import ConfigError
from xmodal.gradients import ParameterSpace, clip_before_gain_, set_rate, weighting, with_gain
from xmodal.training.engine.optimizer import decay_groups

GAMMA, RATE = 1.5, 0.05


def train(make, *, gamma_inside, gain, steps=4):
    """Weights after some steps with gamma in the gradient, or as a gain of the encoders' groups."""
    model = AudioVideo().double()
    start = copy.deepcopy(model.state_dict())
    space = ParameterSpace(model.partition, weighting("mmpareto", gamma=gamma_inside))
    optimizer = make(with_gain(decay_groups(model, 0.1), model.partition, gain))
    for step in range(steps):
        space.add(list(model(rows_of(8, seed=step))[:2]))
        space.decide()
        set_rate(optimizer, RATE)
        optimizer.step()
    return {name: p.detach() - start[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_under_sgd_a_gain_is_gamma_on_the_gradient(options):
    def make(groups):
        return torch.optim.SGD(groups, lr=0.0, **options)

    inside, beside = train(make, gamma_inside=GAMMA, gain=1.0), train(make, gamma_inside=1.0, gain=GAMMA)
    torch.testing.assert_close(inside, beside, rtol=1e-9, atol=1e-14)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=0.0, eps=1e-12)


def test_under_adamw_gamma_on_the_gradient_cancels_and_a_gain_does_not():
    plain, inside = (train(adamw, gamma_inside=g, gain=1.0, steps=1) for g in (1.0, GAMMA))
    torch.testing.assert_close(inside, plain, rtol=1e-6, atol=1e-10)
    beside = train(adamw, gamma_inside=1.0, gain=GAMMA, steps=1)
    start = AudioVideo().double().state_dict()
    for name, moved in plain.items():
        decay = -RATE * 0.1 * start[name] if start[name].ndim >= 2 else 0.0  # the baseline's, whatever the gain
        factor = GAMMA if name.startswith("encoders") else 1.0
        torch.testing.assert_close(beside[name] - decay, factor * (moved - decay))


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_clipping_before_the_gain_keeps_gamma_and_the_directions(max_norm):
    model, rows = AudioVideo().double(), rows_of(8)
    clipped, uniform = copy.deepcopy(model), copy.deepcopy(model)
    for found, name, gamma in ((model, "uniform", GAMMA), (clipped, "uniform", GAMMA), (uniform, "uniform", 1.0)):
        space = ParameterSpace(found.partition, weighting(name, gamma=gamma))
        space.add(list(found(rows)[:2]))
        space.decide()
    norm = clip_before_gain_(clipped.partition, GAMMA, max_norm)
    baseline = torch.nn.utils.get_total_norm([p.grad for p in uniform.parameters()])
    torch.testing.assert_close(norm, baseline)
    factor = min(1.0, max_norm / baseline.item())
    expected = {name: factor * g for name, g in gradients_of(model).items()}
    torch.testing.assert_close(gradients_of(clipped), expected, rtol=2e-6, atol=0)


def test_groups_keep_every_parameter_once_and_their_other_options():
    model = AudioVideo()
    groups = with_gain(
        [{"params": list(model.parameters()), "weight_decay": 0.3, "betas": (0.9, 0.98)}], model.partition, 2.0
    )
    assert [(g["gain"], g["weight_decay"], g["betas"]) for g in groups] == [
        (2.0, 0.15, (0.9, 0.98)),
        (1.0, 0.3, (0.9, 0.98)),
    ]
    assert {p for g in groups for p in g["params"]} == set(model.parameters())
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))]}, *groups[:1]], lr=1.0)
    set_rate(optimizer, 0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.2]
    with pytest.raises(ConfigError, match="must be positive"):
        with_gain(groups, model.partition, 0.0)
