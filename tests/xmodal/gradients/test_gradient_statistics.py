"""Size and spread of gradients at a fixed encoder, against those of a linear model worked out by hand."""

import copy

import pytest
import torch
from torch import nn

from support.clip_batches import classifier, clip_batch
from xmodal.errors import ConfigError
from xmodal.gradients.gradient_statistics import gradient_statistics
from xmodal.metrics.classifier_diagnosis import losses_of

ROWS = 7


@pytest.fixture
def linear() -> tuple[nn.Linear, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A linear model and single samples (x, y) of it."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.randn(ROWS, 3, generator=draw, dtype=torch.float64)
    y = torch.randn(ROWS, 1, generator=draw, dtype=torch.float64)
    return model, list(zip(x, y, strict=True))


def squared_errors(model):
    """Objective 0: half the squared error of y, objective 1: that of -y."""

    def both(sample):
        x, y = sample
        return [(model(x) - y).square().sum() / 2, (model(x) + y).square().sum() / 2]

    return both


def test_per_sample_gradients_of_a_linear_model_are_those_worked_out_by_hand(linear):
    model, samples = linear
    found = gradient_statistics(squared_errors(model), {"encoder": [model.weight]}, samples)["encoder"]
    for k, sign in enumerate((1, -1)):
        by_hand = torch.stack([(model(x) - sign * y) * x for x, y in samples]).detach()  # (w x - y) x
        torch.testing.assert_close(found.norms[:, k], by_hand.norm(dim=1))
        torch.testing.assert_close(found.covariance_trace[k], torch.cov(by_hand.T).trace())
        torch.testing.assert_close(found.norm_of_mean[k], by_hand.mean(0).norm())
        torch.testing.assert_close(found.mean_norm[k], by_hand.norm(dim=1).mean())
        torch.testing.assert_close(found.norm_variance[k], by_hand.norm(dim=1).var())
    apart = [((model(x) - y) * (model(x) + y)).item() < 0 for x, y in samples]  # both lie along x
    assert found.conflict_share == sum(apart) / ROWS > 0
    torch.testing.assert_close(found.cosines.abs(), torch.ones(ROWS, dtype=torch.float64))


def test_equal_batches_have_no_spread_however_large_the_gradient(linear):
    model, samples = linear
    found = gradient_statistics(squared_errors(model), {"encoder": [model.weight]}, [samples[0]] * 5)["encoder"]
    assert (found.covariance_trace < 1e-24 * found.mean_norm**2).all() and (found.mean_norm > 0).all()
    torch.testing.assert_close(found.norm_of_mean, found.mean_norm)


def test_each_encoder_is_asked_alone_and_nothing_moves():
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    encoders = {name: list(model.encoder(name).parameters()) for name in model.modalities}
    batches = [clip_batch(6, seed=seed) for seed in range(3)]
    found = gradient_statistics(lambda batch: losses_of(model, batch), encoders, batches)
    for name in model.modalities:
        alone = gradient_statistics(lambda batch: losses_of(model, batch), {name: encoders[name]}, batches)[name]
        torch.testing.assert_close(vars(found[name]), vars(alone))
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_loss_that_does_not_reach_the_encoder_has_no_gradient_and_no_conflict(linear):
    model, samples = linear
    found = gradient_statistics(
        lambda sample: [model(sample[0]).sum(), torch.zeros(())], {"encoder": [model.weight]}, samples
    )["encoder"]
    assert not found.norms[:, 1].any() and found.conflict_share == 0
    told = found.as_json(("multimodal", "unimodal"))
    assert told["unimodal"]["covariance_trace"] == 0 and len(told["multimodal"]["norms"]) == ROWS


def test_one_mini_batch_has_no_spread(linear):
    model, samples = linear
    with pytest.raises(ConfigError, match="at least two mini-batches"):
        gradient_statistics(squared_errors(model), {"encoder": [model.weight]}, samples[:1])
