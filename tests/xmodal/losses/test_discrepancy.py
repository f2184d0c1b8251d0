"""MMD is unbiased and grows with a shift; CORAL is the distance of covariances; both have gradients."""

import itertools

import pytest
import torch
from torch import nn

from xmodal.losses.discrepancy import coral, mmd


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(measure, source, target):
    return measure(source, target, *(torch.ones(len(rows), dtype=torch.bool) for rows in (source, target)))


@pytest.mark.parametrize(("sources", "targets"), [(2, 2), (2, 3), (3, 4), (4, 4)])
def test_mmd_has_mean_zero_over_all_splits_of_the_rows(sources, targets):
    """Exactly, for any batch size: without a shift every split of the same rows is equally likely."""
    rows = nn.functional.normalize(draw(sources + targets, 5), dim=1)
    values = []
    for source_rows in itertools.combinations(range(len(rows)), sources):
        target_rows = [i for i in range(len(rows)) if i not in source_rows]
        values.append(distance(mmd, rows[list(source_rows)], rows[target_rows]))
    assert torch.stack(values).mean().abs() < 1e-15
    assert torch.stack(values).std() > 1e-3


@pytest.mark.parametrize("rows", [4, 32])
def test_mmd_of_random_batches_is_zero_only_without_a_shift(rows):
    def batches(shift):
        pairs = ((draw(rows, 8, seed=2 * s), draw(rows, 8, seed=2 * s + 1) + shift) for s in range(300))
        return torch.stack([distance(mmd, x, y) for x, y in pairs])

    without, with_shift = batches(0.0), batches(0.7)
    assert without.mean().abs() < 3 * without.std() / 300**0.5
    assert with_shift.mean() > 10 * with_shift.std() / 300**0.5


def test_mmd_equals_the_textbook_sum():
    x, y = draw(5, 3), draw(4, 3, seed=1) + 0.5
    rows = torch.cat([x, y])
    squared = torch.cdist(rows, rows).square()
    median = squared[~torch.eye(9, dtype=torch.bool)].median()

    def kernel(i, j):
        return sum(torch.exp(-squared[i, j] / (scale * median)) for scale in (0.25, 0.5, 1, 2, 4)) / 5

    within_source = sum(kernel(i, j) for i in range(5) for j in range(5) if i != j) / 20
    within_target = sum(kernel(i, j) for i in range(5, 9) for j in range(5, 9) if i != j) / 12
    between = sum(kernel(i, j) for i in range(5) for j in range(5, 9)) / 20
    torch.testing.assert_close(distance(mmd, x, y), within_source + within_target - 2 * between)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_mmd_does_not_depend_on_scale_or_origin(scale, offset):
    x, y = draw(20, 4).float(), (draw(20, 4, seed=1) + 0.5).float()
    transformed = distance(mmd, scale * (x + offset), scale * (y + offset))
    torch.testing.assert_close(transformed, distance(mmd, x, y), rtol=2e-3, atol=1e-5)


def test_gradients_equal_finite_differences():
    """MMD's bandwidth is constant in the backward, so only CORAL is compared; MMD's gradient must be finite."""
    x, y = draw(4, 3).requires_grad_(), (draw(3, 3, seed=1) + 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: distance(coral, x, y), (x, y))
    distance(mmd, x, y).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_descending_mmd_closes_a_shift():
    x, y = draw(64, 2), draw(64, 2, seed=1) + 2
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(distance(mmd, x, y + shift), shift)
        shift.data -= 1.0 * gradient
    assert (y.mean(0) + shift - x.mean(0)).abs().max() < 0.35


def test_coral_equals_the_distance_of_the_covariances():
    x, y = draw(9, 4), 2 * draw(7, 4, seed=1) + 5
    expected = (torch.cov(x.T) - torch.cov(y.T)).square().sum() / (4 * 16)
    torch.testing.assert_close(distance(coral, x, y), expected)


@pytest.mark.parametrize("measure", [mmd, coral])
def test_without_masks_all_rows_count(measure):
    x, y = draw(6, 3), draw(5, 3, seed=1)
    assert torch.equal(measure(x, y), distance(measure, x, y))


@pytest.mark.parametrize("measure", [mmd, coral])
def test_masked_rows_are_ignored_and_too_few_rows_give_zero(measure):
    x, y = draw(6, 3), draw(5, 3, seed=1) + 1
    valid = torch.tensor([True, False, True, True, True, False])
    masked = torch.where(valid[:, None], x, torch.nan).requires_grad_()
    loss = measure(masked, y, valid, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(loss.detach(), distance(measure, x[valid], y))
    loss.backward()
    assert masked.grad.isfinite().all() and (masked.grad[~valid] == 0).all()
    single = torch.arange(5) == 2
    few = measure(masked, y, valid, single)
    few.backward()
    assert few == 0


def test_equal_rows_have_finite_gradients():
    x = torch.ones(4, 3, requires_grad=True)
    distance(mmd, x, torch.ones(4, 3)).backward()
    assert x.grad.isfinite().all()
