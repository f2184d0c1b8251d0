"""CDAN's conditioning, MCC, BNM, pseudo-pairs and consistency: definitions, limits and masks."""

import math

import pytest
import torch
from torch.nn import functional as F

from xmodal.losses.cdan import MAX_WIDTH, MultilinearConditioning, bank_probabilities, entropy_weights
from xmodal.losses.consistency import consistency_loss
from xmodal.losses.prediction_losses import bnm, mcc
from xmodal.losses.pseudo_pairs import best_assignment, mutual_nearest_neighbours, pseudo_pair_loss

OF_PREDICTIONS = pytest.mark.parametrize("loss", [mcc, bnm])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_rows(count):
    return torch.ones(count, dtype=torch.bool)


def confident_logits(*classes, count=3):
    return 60.0 * F.one_hot(torch.tensor(classes), count).double()


def test_conditioning_is_the_outer_product():
    features, predictions = draw(5, 4), draw(5, 3, seed=1).softmax(1)
    conditioning = MultilinearConditioning(4, 3)
    assert conditioning.width == 12
    expected = torch.einsum("nk,nd->nkd", predictions, features).flatten(1)
    torch.testing.assert_close(conditioning(features, predictions), expected)


def test_the_projection_preserves_inner_products():
    features, predictions = draw(12, 96), draw(12, 80, seed=1).softmax(1)
    conditioning = MultilinearConditioning(96, 80).double()
    rows = conditioning(features, predictions)
    assert rows.shape == (12, MAX_WIDTH) and set(conditioning.state_dict()) == {"of_features", "of_predictions"}
    expected = (features @ features.T) * (predictions @ predictions.T)
    largest = expected.diagonal().max()
    assert (rows @ rows.T - expected).abs().max() < 0.15 * largest
    torch.testing.assert_close(rows, MultilinearConditioning(96, 80).double()(features, predictions))


def test_no_gradient_flows_to_the_predictions():
    features, logits = draw(5, 4).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    predictions = logits.softmax(1)
    (MultilinearConditioning(4, 3)(features, predictions).sum() * entropy_weights(predictions).sum()).backward()
    assert logits.grad is None and features.grad.abs().max() > 0


def test_entropy_weights_grow_with_confidence():
    predictions = torch.stack([torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])])
    torch.testing.assert_close(entropy_weights(predictions), torch.tensor([1.25, 2.0]))


def test_bank_probabilities_are_a_softmax_over_the_bank():
    rows, bank = F.normalize(draw(5, 4), dim=1), F.normalize(draw(7, 4, seed=1), dim=1)
    torch.testing.assert_close(bank_probabilities(rows, bank, 0.1), ((rows @ bank.T) / 0.1).softmax(1))


def test_mcc_equals_the_papers_definition():
    logits, (rows, classes), temperature = draw(6, 4), (6, 4), 2.5
    probabilities = (logits / temperature).softmax(1)
    weight = 1 + torch.exp((probabilities * probabilities.log()).sum(1))
    weight = rows * weight / weight.sum()
    confusion = torch.einsum("n,ni,nj->ij", weight, probabilities, probabilities)
    confusion = confusion / confusion.sum(1, keepdim=True)
    expected = sum(confusion[i, j] for i in range(classes) for j in range(classes) if i != j) / classes
    torch.testing.assert_close(mcc(logits, all_rows(6)), expected)


def test_confident_and_diverse_predictions_have_the_least_loss():
    diverse, collapsed, uniform = (
        confident_logits(0, 1, 2),
        confident_logits(0, 0, 0),
        torch.zeros(3, 3, dtype=torch.float64),
    )
    assert mcc(diverse, all_rows(3)) < 1e-6 and mcc(uniform, all_rows(3)).item() == pytest.approx(2 / 3)
    least = {"diverse": -1.0, "collapsed": -1 / math.sqrt(3), "uniform": -1 / 3}
    for name, logits in (("diverse", diverse), ("collapsed", collapsed), ("uniform", uniform)):
        assert bnm(logits, all_rows(3)).item() == pytest.approx(least[name])


@OF_PREDICTIONS
def test_gradients_of_extreme_predictions_are_finite_and_masked_rows_ignored(loss):
    logits = torch.cat([confident_logits(0, 1), torch.full((1, 3), torch.nan).double(), draw(2, 3)]).requires_grad_()
    valid = torch.tensor([True, True, False, True, True])
    value = loss(logits, valid)
    torch.testing.assert_close(value.detach(), loss(logits.detach()[valid], all_rows(4)))
    value.backward()
    assert logits.grad.isfinite().all() and (logits.grad[2] == 0).all() and logits.grad.abs().sum() > 0
    nothing = loss(logits, ~all_rows(5))
    nothing.backward()
    assert nothing == 0


@OF_PREDICTIONS
def test_gradients_equal_finite_differences(loss):
    """MCC's weights are constant in the backward, so there a step along the gradient must merely lower the loss."""
    logits = draw(5, 3).requires_grad_()
    if loss is mcc:
        value = loss(logits, all_rows(5))
        (gradient,) = torch.autograd.grad(value, logits)
        assert loss(logits - 0.1 * gradient, all_rows(5)) < value
    else:
        assert torch.autograd.gradcheck(lambda x: loss(x, all_rows(5)), (logits,))


def test_pairs_are_mutual_nearest_neighbours_above_the_threshold():
    u = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, -1.0]]), dim=1)
    v = F.normalize(torch.tensor([[0.05, 1.0], [1.0, 0.02], [1.0, 0.02]]), dim=1)
    assert mutual_nearest_neighbours(u, v, threshold=0.5).tolist() == [[0, 1], [1, 0]]
    assert mutual_nearest_neighbours(u, v, threshold=0.9999).tolist() == []
    assert mutual_nearest_neighbours(u, v[:0]).shape == (0, 2)


def test_the_pseudo_pair_loss_is_infonce_of_the_guessed_pairs():
    v = F.normalize(draw(6, 8), dim=1)
    order = torch.tensor([3, 1, 4, 0])
    u = F.normalize(torch.cat([v[order] + 0.05 * draw(4, 8, seed=1), -v.sum(0, keepdim=True)]), dim=1)
    u, valid = u.requires_grad_(), torch.tensor([True, True, True, True, False])
    loss = pseudo_pair_loss(u, v, 5.0, valid, all_rows(6), threshold=0.5)
    logits = 5.0 * u[:4] @ v[order].T
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (u.grad[4] == 0).all()
    assert pseudo_pair_loss(u, v, 5.0, valid, all_rows(6), threshold=0.99999) == 0


def test_consistency_counts_confident_rows_only():
    weak = torch.cat([confident_logits(1, 2), torch.zeros(1, 3).double(), torch.full((1, 3), torch.nan).double()])
    strong = draw(4, 3)
    strong[3] = torch.nan
    strong.requires_grad_()
    valid = torch.tensor([True, True, True, False])
    loss = consistency_loss(weak, strong, valid)
    torch.testing.assert_close(loss, F.cross_entropy(strong[:2], torch.tensor([1, 2]), reduction="sum") / 3)
    loss.backward()
    assert (strong.grad[2:] == 0).all() and strong.grad[:2].abs().sum() > 0


def test_the_best_assignment_uses_every_column_once():
    scores = torch.tensor([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0], [0.7, 0.6, 0.1]])
    assert best_assignment(scores).tolist() == [[0, 1], [1, 0], [2, 2]]
    assert best_assignment(scores[:, :2]).tolist() == [[0, 1], [1, 0]], "what is left over has no partner"
    order = torch.randperm(30)
    scores_of_order = torch.eye(30)[order] + 0.4 * torch.rand(30, 30)
    assert torch.equal(best_assignment(scores_of_order)[:, 1], order)
