"""Gradient reversal flips and scales; the critic's loss balances the domains; penalties train the critic only."""

import math

import pytest
import torch
from torch import nn

from xmodal.losses.domain_critic import DomainCritic, adversarial_loss, critic_accuracy, gradient_penalty
from xmodal.losses.gradient_reversal import GradientReversal, dann_ramp, reverse_gradient

STRENGTHS = pytest.mark.parametrize("strength", [0.0, 0.3, 2.0, torch.tensor(0.7, dtype=torch.float64)])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_rows(count):
    return torch.ones(count, dtype=torch.bool)


@STRENGTHS
def test_reversal_is_the_identity_forward_and_scales_by_minus_strength_backward(strength):
    x, weights = draw(5, 3).requires_grad_(), draw(5, 3, seed=1)
    y = reverse_gradient(x, strength)
    assert torch.equal(y, x)
    (y.square() * weights).sum().backward()
    assert torch.equal(x.grad, -(2 * x.detach() * weights) * float(strength))


@STRENGTHS
def test_the_backward_is_minus_strength_times_finite_differences(strength):
    x, step = draw(4, 3), 1e-6

    def value(x):
        return (reverse_gradient(x, strength).sin() * draw(4, 3, seed=1)).sum()

    numeric = torch.zeros_like(x)
    for index in range(x.numel()):
        offset = torch.zeros_like(x).flatten()
        offset[index] = step
        numeric.view(-1)[index] = (value(x + offset.view_as(x)) - value(x - offset.view_as(x))) / (2 * step)
    (gradient,) = torch.autograd.grad(value(x.requires_grad_()), x)
    torch.testing.assert_close(gradient, -float(strength) * numeric, rtol=1e-7, atol=1e-8)


def test_the_ramp_has_the_published_values():
    assert dann_ramp(0.0) == 0.0
    assert [round(dann_ramp(p), 2) for p in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)] == [0.05, 0.24, 0.46, 0.76, 0.91, 0.99]
    assert dann_ramp(1.0) < 1.0 and dann_ramp(0.5, gamma=0.0) == 0.0
    with pytest.raises(ValueError, match=r"lies in 0\.\.1"):
        dann_ramp(1.2)


@pytest.mark.parametrize("spectral", [False, True])
def test_the_encoder_gets_the_reversed_gradient_and_the_critic_the_plain_one(spectral):
    torch.manual_seed(0)
    encoder, critic = nn.Linear(4, 6).double(), DomainCritic(6, (8,), spectral=spectral).double()
    critic.eval()  # no power iteration between the two passes
    source, target = draw(7, 4), draw(5, 4, seed=1)

    def gradients(strength):
        features = encoder(torch.cat([source, target]))
        logits = critic(features if strength is None else reverse_gradient(features, strength))
        parameters = [*encoder.parameters(), *critic.parameters()]
        both = torch.autograd.grad(adversarial_loss(logits[:7], logits[7:], all_rows(7), all_rows(5)), parameters)
        return both[:2], both[2:]

    plain_encoder, plain_critic = gradients(None)
    assert plain_encoder[0].abs().max() > 1e-4
    for strength in (0.0, 0.5, 1.0):
        encoder_gradients, critic_gradients = gradients(strength)
        for actual, expected in zip(encoder_gradients, plain_encoder, strict=True):
            torch.testing.assert_close(actual, -strength * expected)
        for actual, expected in zip(critic_gradients, plain_critic, strict=True):
            torch.testing.assert_close(actual, expected)
        assert (encoder_gradients[0].abs().max() > 0) == (strength > 0)


def test_the_loss_is_the_mean_of_both_domains_cross_entropies():
    source, target = draw(6), draw(3, seed=1)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    for smoothing in (0.0, 0.2):
        expected = 0.5 * (
            cross_entropy(source, torch.full_like(source, 1 - smoothing))
            + cross_entropy(target, torch.full_like(target, smoothing))
        )
        torch.testing.assert_close(
            adversarial_loss(source, target, all_rows(6), all_rows(3), smoothing=smoothing), expected
        )
    guessing = adversarial_loss(torch.zeros(4), torch.zeros(9), all_rows(4), all_rows(9))
    assert guessing.item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="nothing to learn"):
        adversarial_loss(source, target, all_rows(6), all_rows(3), smoothing=0.5)


def test_masked_rows_are_ignored():
    source, target = draw(6), draw(3, seed=1)
    valid = torch.tensor([True, False, True, True, False, True])
    masked = source.clone()
    masked[~valid] = math.nan
    masked.requires_grad_()
    loss = adversarial_loss(masked, target, valid, all_rows(3))
    torch.testing.assert_close(loss.detach(), adversarial_loss(source[valid], target, all_rows(4), all_rows(3)))
    loss.backward()
    assert masked.grad.isfinite().all() and (masked.grad[~valid] == 0).all()
    assert critic_accuracy(masked, target, valid, all_rows(3)).isfinite()


def test_without_rows_of_a_domain_loss_and_gradients_are_zero():
    source, target = draw(6).requires_grad_(), draw(3, seed=1).requires_grad_()
    loss = adversarial_loss(source, target, all_rows(6), ~all_rows(3))
    loss.backward()
    assert loss == 0 and source.grad.abs().sum() == 0 and target.grad.abs().sum() == 0
    assert adversarial_loss(source, target[:0], all_rows(6), all_rows(0)) == 0


def test_row_weights_make_weighted_means():
    source, target, weight = draw(6), draw(3, seed=1), torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    twice = torch.cat([source[:1], source])
    expected = adversarial_loss(twice, target, all_rows(7), all_rows(3))
    torch.testing.assert_close(
        adversarial_loss(source, target, all_rows(6), all_rows(3), weight_source=weight), expected
    )


def test_without_masks_all_rows_count():
    source, target = draw(6), draw(3, seed=1)
    assert torch.equal(adversarial_loss(source, target), adversarial_loss(source, target, all_rows(6), all_rows(3)))


def test_the_layer_reverses_with_its_strength():
    x, layer = draw(5, 3).requires_grad_(), GradientReversal(0.3)
    layer(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, -0.3))
    assert not layer.state_dict() and "strength=0.3" in repr(layer)


def test_accuracy_counts_both_domains_equally():
    source, target = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, -1.0])
    assert critic_accuracy(source, target, all_rows(4), all_rows(2)) == 0.75


def test_the_penalty_is_the_squared_slope_and_has_no_gradient_for_features():
    slope = draw(4)
    critic = nn.Linear(4, 1, bias=False).double()
    critic.weight.data[:] = slope
    features = draw(5, 4).requires_grad_()
    flat = nn.Sequential(critic, nn.Flatten(0))
    penalty = gradient_penalty(flat, features[:2], features[2:], all_rows(2), torch.tensor([True, True, False]))
    torch.testing.assert_close(penalty, slope.square().sum())
    penalty.backward()
    torch.testing.assert_close(critic.weight.grad[0], 2 * slope)
    assert features.grad is None


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_a_spectral_critic_changes_no_more_than_its_features(scale):
    torch.manual_seed(0)
    critic = DomainCritic(8, (16, 16), spectral=True)
    for _ in range(200):  # power iteration settles
        critic(torch.randn(2, 8))
    critic.eval()
    first, second = scale * torch.randn(500, 8), scale * torch.randn(500, 8)
    steepest = ((critic(first) - critic(second)).abs() / (first - second).norm(dim=1)).max()
    assert steepest <= 1.0 + 1e-3


def test_the_critic_scores_rows_independently():
    torch.manual_seed(0)
    critic, rows = DomainCritic(8), torch.randn(6, 8)
    torch.testing.assert_close(critic(rows)[:2], critic(rows[:2]))
