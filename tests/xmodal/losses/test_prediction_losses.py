"""CDAN's conditioning, MCC, BNM, information, pseudo-pairs and consistency: definitions, limits, masks."""

import math

import pytest
import torch
from torch.nn import functional as F

from xmodal.losses.cdan import MOST, Conditioning, assignments, certainty
from xmodal.losses.consistency import consistency
from xmodal.losses.prediction_losses import bnm, information, mcc
from xmodal.losses.pseudo_pairs import best_assignment, mutual_nearest, pseudo_pairs

OF_PREDICTIONS = pytest.mark.parametrize("loss", [mcc, bnm, information])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every(count):
    return torch.ones(count, dtype=torch.bool)


def sure_of(*classes, kinds=3):
    return 60.0 * F.one_hot(torch.tensor(classes), kinds).double()


def test_conditioning_is_the_outer_product():
    features, known = draw(5, 4), draw(5, 3, seed=1).softmax(1)
    read = Conditioning(4, 3)
    assert read.width == 12
    expected = torch.einsum("nk,nd->nkd", known, features).flatten(1)
    torch.testing.assert_close(read(features, known), expected)


def test_a_projection_keeps_the_inner_products_of_the_outer_product():
    features, known = draw(12, 96), draw(12, 80, seed=1).softmax(1)
    read = Conditioning(96, 80).double()
    rows = read(features, known)
    assert rows.shape == (12, MOST) and set(read.state_dict()) == {"of_features", "of_predictions"}
    wanted = (features @ features.T) * (known @ known.T)
    largest = wanted.diagonal().max()
    assert (rows @ rows.T - wanted).abs().max() < 0.15 * largest
    torch.testing.assert_close(rows, Conditioning(96, 80).double()(features, known))


def test_predictions_are_constants_of_the_condition():
    features, logits = draw(5, 4).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    known = logits.softmax(1)
    (Conditioning(4, 3)(features, known).sum() * certainty(known).sum()).backward()
    assert logits.grad is None and features.grad.abs().max() > 0


def test_certainty_lies_between_ignorance_and_knowledge():
    known = torch.stack([torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])])
    torch.testing.assert_close(certainty(known), torch.tensor([1.25, 2.0]))


def test_assignments_are_a_softmax_over_the_bank():
    rows, bank = F.normalize(draw(5, 4), dim=1), F.normalize(draw(7, 4, seed=1), dim=1)
    torch.testing.assert_close(assignments(rows, bank, 0.1), ((rows @ bank.T) / 0.1).softmax(1))


def test_mcc_is_the_papers():
    logits, (rows, kinds), temperature = draw(6, 4), (6, 4), 2.5
    sure = (logits / temperature).softmax(1)
    weight = 1 + torch.exp((sure * sure.log()).sum(1))
    weight = rows * weight / weight.sum()
    shared = torch.stack([torch.stack([(weight * sure[:, i] * sure[:, j]).sum() for j in range(kinds)])
                          for i in range(kinds)])  # fmt: skip
    shared = shared / shared.sum(1, keepdim=True)
    expected = sum(shared[i, j] for i in range(kinds) for j in range(kinds) if i != j) / kinds
    torch.testing.assert_close(mcc(logits, every(6)), expected)


def test_what_is_sure_and_diverse_has_the_least_loss():
    diverse, one, unsure = sure_of(0, 1, 2), sure_of(0, 0, 0), torch.zeros(3, 3, dtype=torch.float64)
    assert mcc(diverse, every(3)) < 1e-6 and mcc(unsure, every(3)).item() == pytest.approx(2 / 3)
    least = {"diverse": -1.0, "one": -1 / math.sqrt(3), "unsure": -1 / 3}
    for name, logits in (("diverse", diverse), ("one", one), ("unsure", unsure)):
        assert bnm(logits, every(3)).item() == pytest.approx(least[name])
    found = [information(logits, every(3)).item() for logits in (diverse, one, unsure)]
    assert found == pytest.approx([-math.log(3), 0.0, 0.0], abs=1e-9)


@OF_PREDICTIONS
def test_gradients_are_finite_where_predictions_are_extreme_and_masked_rows_never_count(loss):
    logits = torch.cat([sure_of(0, 1), torch.full((1, 3), torch.nan).double(), draw(2, 3)]).requires_grad_()
    valid = torch.tensor([True, True, False, True, True])
    value = loss(logits, valid)
    torch.testing.assert_close(value.detach(), loss(logits.detach()[valid], every(4)))
    value.backward()
    assert logits.grad.isfinite().all() and (logits.grad[2] == 0).all() and logits.grad.abs().sum() > 0
    nothing = loss(logits, ~every(5))
    nothing.backward()
    assert nothing == 0


@OF_PREDICTIONS
def test_gradients_are_those_of_finite_differences(loss):
    """MCC's weights are constants and no part of its gradient, so there a step must merely help."""
    logits = draw(5, 3).requires_grad_()
    if loss is mcc:
        value = loss(logits, every(5))
        (gradient,) = torch.autograd.grad(value, logits)
        assert loss(logits - 0.1 * gradient, every(5)) < value
    else:
        assert torch.autograd.gradcheck(lambda x: loss(x, every(5)), (logits,))


def test_pairs_are_mutual_and_near():
    u = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, -1.0]]), dim=1)
    v = F.normalize(torch.tensor([[0.05, 1.0], [1.0, 0.02], [1.0, 0.02]]), dim=1)
    assert mutual_nearest(u, v, threshold=0.5).tolist() == [[0, 1], [1, 0]]
    assert mutual_nearest(u, v, threshold=0.9999).tolist() == []
    assert mutual_nearest(u, v[:0]).shape == (0, 2)


def test_pseudo_pairs_contrast_the_guessed_pairs_and_nothing_else():
    v = F.normalize(draw(6, 8), dim=1)
    order = torch.tensor([3, 1, 4, 0])
    u = F.normalize(torch.cat([v[order] + 0.05 * draw(4, 8, seed=1), -v.sum(0, keepdim=True)]), dim=1)
    u, valid = u.requires_grad_(), torch.tensor([True, True, True, True, False])
    loss = pseudo_pairs(u, v, 5.0, valid, every(6), threshold=0.5)
    logits = 5.0 * u[:4] @ v[order].T
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (u.grad[4] == 0).all()
    assert pseudo_pairs(u, v, 5.0, valid, every(6), threshold=0.99999) == 0


def test_consistency_follows_sure_rows_alone():
    plain = torch.cat([sure_of(1, 2), torch.zeros(1, 3).double(), torch.full((1, 3), torch.nan).double()])
    strong = draw(4, 3)
    strong[3] = torch.nan
    strong.requires_grad_()
    valid = torch.tensor([True, True, True, False])
    loss = consistency(plain, strong, valid)
    torch.testing.assert_close(loss, F.cross_entropy(strong[:2], torch.tensor([1, 2]), reduction="sum") / 3)
    loss.backward()
    assert (strong.grad[2:] == 0).all() and strong.grad[:2].abs().sum() > 0


def test_an_assignment_uses_every_column_once_where_the_nearest_would_not():
    scores = torch.tensor([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0], [0.7, 0.6, 0.1]])
    assert best_assignment(scores).tolist() == [[0, 1], [1, 0], [2, 2]]
    assert best_assignment(scores[:, :2]).tolist() == [[0, 1], [1, 0]], "what is left over has no partner"
    order = torch.randperm(30)
    planted = torch.eye(30)[order] + 0.4 * torch.rand(30, 30)
    assert torch.equal(best_assignment(planted)[:, 1], order)
