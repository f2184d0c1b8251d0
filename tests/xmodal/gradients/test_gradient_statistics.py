"""Size and spread of gradients at a fixed encoder, compared with those of a linear model derived by hand."""

import copy

import pytest
import torch
from torch import nn

from support.clip_batches import classifier, clip_batch
from xmodal.errors import ConfigError
from xmodal.gradients.gradient_statistics import gradient_statistics
from xmodal.metrics.classifier_diagnosis import objective_losses

ROWS = 7


@pytest.fixture
def linear() -> tuple[nn.Linear, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return a linear model and single samples (x, y) of it."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    x = torch.randn(ROWS, 3, generator=draw, dtype=torch.float64)
    y = torch.randn(ROWS, 1, generator=draw, dtype=torch.float64)
    return model, list(zip(x, y, strict=True))


def squared_errors(model):
    """Return two objectives: half the squared error of y, and that of -y."""

    def both(sample):
        x, y = sample
        return [(model(x) - y).square().sum() / 2, (model(x) + y).square().sum() / 2]

    return both


def test_per_sample_gradients_of_a_linear_model_equal_those_by_hand(linear):
    model, samples = linear
    statistics = gradient_statistics(squared_errors(model), {"encoder": [model.weight]}, samples)["encoder"]
    for k, sign in enumerate((1, -1)):
        by_hand = torch.stack([(model(x) - sign * y) * x for x, y in samples]).detach()  # (w x - y) x
        torch.testing.assert_close(statistics.norms[:, k], by_hand.norm(dim=1))
        torch.testing.assert_close(statistics.covariance_trace[k], torch.cov(by_hand.T).trace())
        torch.testing.assert_close(statistics.norm_of_mean[k], by_hand.mean(0).norm())
        torch.testing.assert_close(statistics.mean_norm[k], by_hand.norm(dim=1).mean())
        torch.testing.assert_close(statistics.norm_variance[k], by_hand.norm(dim=1).var())
    conflicts = [((model(x) - y) * (model(x) + y)).item() < 0 for x, y in samples]  # both lie along x
    assert statistics.conflict_share == sum(conflicts) / ROWS > 0
    torch.testing.assert_close(statistics.cosines.abs(), torch.ones(ROWS, dtype=torch.float64))


def test_equal_batches_have_no_spread(linear):
    model, samples = linear
    statistics = gradient_statistics(squared_errors(model), {"encoder": [model.weight]}, [samples[0]] * 5)["encoder"]
    assert (statistics.covariance_trace < 1e-24 * statistics.mean_norm**2).all() and (statistics.mean_norm > 0).all()
    torch.testing.assert_close(statistics.norm_of_mean, statistics.mean_norm)


def test_encoders_are_independent_and_the_model_does_not_change():
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    encoders = {name: list(model.encoder(name).parameters()) for name in model.modalities}
    batches = [clip_batch(6, seed=seed) for seed in range(3)]
    together = gradient_statistics(lambda batch: objective_losses(model, batch), encoders, batches)
    for name in model.modalities:
        alone = gradient_statistics(lambda batch: objective_losses(model, batch), {name: encoders[name]}, batches)[name]
        torch.testing.assert_close(vars(together[name]), vars(alone))
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_unrelated_loss_has_no_gradient_and_no_conflict(linear):
    model, samples = linear
    statistics = gradient_statistics(
        lambda sample: [model(sample[0]).sum(), torch.zeros(())], {"encoder": [model.weight]}, samples
    )["encoder"]
    assert not statistics.norms[:, 1].any() and statistics.conflict_share == 0
    values = statistics.to_json(("multimodal", "unimodal"))
    assert values["unimodal"]["covariance_trace"] == 0 and len(values["multimodal"]["norms"]) == ROWS


def test_one_mini_batch_raises(linear):
    model, samples = linear
    with pytest.raises(ConfigError, match="at least two mini-batches"):
        gradient_statistics(squared_errors(model), {"encoder": [model.weight]}, samples[:1])
