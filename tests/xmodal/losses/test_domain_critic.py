"""Reversal flips the sign and scales; the critic's loss balances the domains; penalties reach the critic alone."""

import math

import pytest
import torch
from torch import nn

from xmodal.losses.domain_critic import Critic, adversarial, critic_accuracy, gradient_penalty
from xmodal.losses.gradient_reversal import ramp, reverse

STRENGTHS = pytest.mark.parametrize("strength", [0.0, 0.3, 2.0, torch.tensor(0.7, dtype=torch.float64)])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every(count):
    return torch.ones(count, dtype=torch.bool)


@STRENGTHS
def test_reversal_is_the_identity_forward_and_minus_strength_backward(strength):
    x, weights = draw(5, 3).requires_grad_(), draw(5, 3, seed=1)
    y = reverse(x, strength)
    assert torch.equal(y, x)
    (y.square() * weights).sum().backward()
    assert torch.equal(x.grad, -(2 * x.detach() * weights) * float(strength))


@STRENGTHS
def test_the_backward_is_minus_strength_times_finite_differences(strength):
    x, step = draw(4, 3), 1e-6

    def value(moved):
        return (reverse(moved, strength).sin() * draw(4, 3, seed=1)).sum()

    numeric = torch.zeros_like(x)
    for place in range(x.numel()):
        apart = torch.zeros_like(x).flatten()
        apart[place] = step
        numeric.view(-1)[place] = (value(x + apart.view_as(x)) - value(x - apart.view_as(x))) / (2 * step)
    (found,) = torch.autograd.grad(value(x.requires_grad_()), x)
    torch.testing.assert_close(found, -float(strength) * numeric, rtol=1e-7, atol=1e-8)


def test_the_ramp_is_the_papers():
    assert ramp(0.0) == 0.0
    assert [round(ramp(p), 2) for p in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)] == [0.05, 0.24, 0.46, 0.76, 0.91, 0.99]
    assert ramp(1.0) < 1.0 and ramp(0.5, gamma=0.0) == 0.0
    with pytest.raises(ValueError, match=r"lies in 0\.\.1"):
        ramp(1.2)


@pytest.mark.parametrize("spectral", [False, True])
def test_the_encoder_gets_the_reversed_gradient_and_the_critic_its_own(spectral):
    torch.manual_seed(0)
    encoder, critic = nn.Linear(4, 6).double(), Critic(6, (8,), spectral=spectral).double()
    critic.eval()  # no power iteration between the two passes
    source, target = draw(7, 4), draw(5, 4, seed=1)

    def gradients(strength):
        features = encoder(torch.cat([source, target]))
        logits = critic(features if strength is None else reverse(features, strength))
        parameters = [*encoder.parameters(), *critic.parameters()]
        found = torch.autograd.grad(adversarial(logits[:7], logits[7:], every(7), every(5)), parameters)
        return found[:2], found[2:]

    plain_encoder, plain_critic = gradients(None)
    assert plain_encoder[0].abs().max() > 1e-4
    for strength in (0.0, 0.5, 1.0):
        own, critics = gradients(strength)
        for reversed_, straight in zip(own, plain_encoder, strict=True):
            torch.testing.assert_close(reversed_, -strength * straight)
        for ours, straight in zip(critics, plain_critic, strict=True):
            torch.testing.assert_close(ours, straight)
        assert (own[0].abs().max() > 0) == (strength > 0)


def test_the_loss_is_the_mean_of_both_domains_own_cross_entropies():
    source, target = draw(6), draw(3, seed=1)
    known = nn.functional.binary_cross_entropy_with_logits
    for smoothing in (0.0, 0.2):
        expected = 0.5 * (
            known(source, torch.full_like(source, 1 - smoothing)) + known(target, torch.full_like(target, smoothing))
        )
        torch.testing.assert_close(adversarial(source, target, every(6), every(3), smoothing=smoothing), expected)
    ignorant = adversarial(torch.zeros(4), torch.zeros(9), every(4), every(9))
    assert ignorant.item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="nothing to learn"):
        adversarial(source, target, every(6), every(3), smoothing=0.5)


def test_masked_rows_never_count():
    source, target = draw(6), draw(3, seed=1)
    valid = torch.tensor([True, False, True, True, False, True])
    spoiled = source.clone()
    spoiled[~valid] = math.nan
    spoiled.requires_grad_()
    loss = adversarial(spoiled, target, valid, every(3))
    torch.testing.assert_close(loss.detach(), adversarial(source[valid], target, every(4), every(3)))
    loss.backward()
    assert spoiled.grad.isfinite().all() and (spoiled.grad[~valid] == 0).all()
    assert critic_accuracy(spoiled, target, valid, every(3)).isfinite()


def test_without_a_row_of_a_domain_nothing_is_learned():
    source, target = draw(6).requires_grad_(), draw(3, seed=1).requires_grad_()
    loss = adversarial(source, target, every(6), ~every(3))
    loss.backward()
    assert loss == 0 and source.grad.abs().sum() == 0 and target.grad.abs().sum() == 0
    assert adversarial(source, target[:0], every(6), every(0)) == 0


def test_weights_of_rows_make_weighted_means():
    source, target, weight = draw(6), draw(3, seed=1), torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    twice = torch.cat([source[:1], source])
    expected = adversarial(twice, target, every(7), every(3))
    torch.testing.assert_close(adversarial(source, target, every(6), every(3), weight_source=weight), expected)


def test_accuracy_counts_both_domains_equally():
    source, target = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, -1.0])
    assert critic_accuracy(source, target, every(4), every(2)) == 0.75


def test_the_penalty_is_the_squared_slope_and_leaves_the_encoder_alone():
    slope = draw(4)
    critic = nn.Linear(4, 1, bias=False).double()
    critic.weight.data[:] = slope
    features = draw(5, 4).requires_grad_()
    flat = nn.Sequential(critic, nn.Flatten(0))
    penalty = gradient_penalty(flat, features[:2], features[2:], every(2), torch.tensor([True, True, False]))
    torch.testing.assert_close(penalty, slope.square().sum())
    penalty.backward()
    torch.testing.assert_close(critic.weight.grad[0], 2 * slope)
    assert features.grad is None


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_a_spectral_critic_changes_no_more_than_its_features(scale):
    torch.manual_seed(0)
    critic = Critic(8, (16, 16), spectral=True)
    for _ in range(200):  # power iteration settles
        critic(torch.randn(2, 8))
    critic.eval()
    one, other = scale * torch.randn(500, 8), scale * torch.randn(500, 8)
    steepest = ((critic(one) - critic(other)).abs() / (one - other).norm(dim=1)).max()
    assert steepest <= 1.0 + 1e-3


def test_the_critic_has_no_statistics_of_a_batch():
    torch.manual_seed(0)
    critic, rows = Critic(8), torch.randn(6, 8)
    torch.testing.assert_close(critic(rows)[:2], critic(rows[:2]))
