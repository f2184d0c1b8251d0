"""Theorems about weightings: KKT, brute force, descent, length, invariances, and agreement with TorchJD."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from support.host_reads import HostReads
from xmodal.errors import ConfigError
from xmodal.gradients import (
    WEIGHTINGS,
    MinNorm,
    MMPareto,
    MMParetoContinuous,
    MMParetoPerTensor,
    Uniform,
    weighting,
)
from xmodal.gradients.dual_cone import pcgrad, upgrad
from xmodal.gradients.gramian import alignment, combined_norm, compute_gramian, cosines, has_conflict, lowest_cosine
from xmodal.gradients.min_norm import min_norm
from xmodal.gradients.weightings import min_norm_scaled, mmpareto, mmpareto_continuous, mmpareto_per_tensor, uniform

ON_GRAMIANS = [name for name in WEIGHTINGS if name != "mmpareto_per_tensor"]
NEVER_OPPOSING = [min_norm, min_norm_scaled, mmpareto, mmpareto_continuous, upgrad]


def draw(count, width, seed, spread=0.0):
    """Draw `count` gradients [K, P] whose lengths differ by up to 10^spread either way."""
    random = torch.Generator().manual_seed(seed)
    lengths = 10 ** (spread * (2 * torch.rand(count, 1, generator=random, dtype=torch.float64) - 1))
    return torch.randn(count, width, generator=random, dtype=torch.float64) * lengths


@st.composite
def gradients(draw_from, largest=6, smallest=2):
    """Draw gradients in few dimensions (conflict is common), some of them parallel, opposed, repeated or absent."""
    count = draw_from(st.integers(smallest, largest))
    rows = draw(
        count, draw_from(st.integers(1, 6)), draw_from(st.integers(0, 10**6)), draw_from(st.sampled_from([0, 2]))
    )
    for i in range(1, count):
        rows[i] = {"own": rows[i], "same": rows[0], "opposed": -0.5 * rows[i - 1], "absent": 0 * rows[i]}[
            draw_from(st.sampled_from(["own"] * 5 + ["same", "opposed", "absent"]))
        ]
    return rows


def scale_of(rows):
    return rows.norm(dim=1).max().item() ** 2


@given(gradients(largest=8, smallest=1))
@settings(max_examples=100)
def test_min_norm_satisfies_kkt(rows):
    gramian = compute_gramian(list(rows))
    alpha = min_norm(gramian)
    present = rows.norm(dim=1) > 0
    assert (alpha >= 0).all()
    assert not alpha[~present].any()
    assert alpha.sum().item() == pytest.approx(float(present.any()), abs=1e-12)
    products, square = alignment(gramian, alpha), combined_norm(gramian, alpha) ** 2
    slack = 1e-9 * scale_of(rows)
    assert (products[present] >= square - slack).all()
    used = alpha > 1e-6
    assert (products[used] <= square + slack).all()


@given(gradients(largest=4))
@settings(max_examples=60)
def test_min_norm_matches_brute_force(rows):
    rows = rows[rows.norm(dim=1) > 0]
    gramian = compute_gramian(list(rows)) if len(rows) else torch.zeros(1, 1, dtype=torch.float64)
    steps = 24
    corners = np.array([c for c in np.ndindex(*[steps + 1] * gramian.shape[0]) if sum(c) == steps]) / steps
    lattice = np.einsum("si,ij,sj->s", corners, gramian.numpy(), corners).min()
    actual = combined_norm(gramian, min_norm(gramian)).item() ** 2
    reach = 4 * scale_of(rows) / steps if len(rows) else 0.0  # how far the nearest lattice point may be from the best
    assert lattice - reach <= actual <= lattice + 1e-12 * max(1.0, lattice)


@given(gradients(largest=8))
@settings(max_examples=100)
def test_min_norm_matches_an_independent_solver(rows):
    """Solve min |J' a| with sum a = 1 by non-negative least squares (Lawson & Hanson) with a heavy row for the sum."""
    rows = rows / rows.norm(dim=1).max().clamp(min=1e-300)
    present_rows = rows[rows.norm(dim=1) > 1e-6]
    gramian, heavy = compute_gramian(list(present_rows)), 1e4
    system = np.vstack([present_rows.numpy().T, heavy * np.ones(len(present_rows))])
    alpha, _ = nnls(system, np.append(np.zeros(present_rows.shape[1]), heavy))
    expected = combined_norm(gramian, torch.tensor(alpha / alpha.sum())).item()
    assert combined_norm(gramian, min_norm(gramian)).item() == pytest.approx(expected, abs=1e-5)


@given(gradients(largest=8), st.sampled_from(NEVER_OPPOSING))
@settings(max_examples=150)
def test_no_objective_is_opposed_by_the_non_conflicting_weightings(rows, method):
    gramian = compute_gramian(list(rows))
    weights = method(gramian)
    lengths = rows.norm(dim=1) * (weights.abs() * rows.norm(dim=1)).sum()  # what rounding is relative to
    assert (alignment(gramian, weights) >= -1e-9 * lengths - 1e-300).all()


@given(gradients(largest=2))
def test_pcgrad_of_two_objectives_equals_upgrad(rows):
    gramian = compute_gramian(list(rows))
    torch.testing.assert_close(pcgrad(gramian), upgrad(gramian), rtol=1e-9, atol=1e-12)


@given(gradients(), st.sampled_from([mmpareto, mmpareto_continuous]), st.floats(0.5, 3))
@settings(max_examples=100)
def test_the_length_is_gamma_times_that_of_the_sum_within_the_rescale_range(rows, method, gamma):
    gramian = compute_gramian(list(rows))
    wide, total = (0.0, 1e9), combined_norm(gramian, torch.ones(len(rows))).item()
    length = combined_norm(gramian, method(gramian, gamma=gamma, rescale=wide)).item()
    base = combined_norm(gramian, method(gramian, gamma=1.0, rescale=(1.0, 1.0))).item()
    if base > 1e-5 * rows.norm(dim=1).max().item():  # else exactly opposed: nothing to stretch
        assert length == pytest.approx(gamma * total, rel=1e-6)
        narrow = combined_norm(gramian, method(gramian, gamma=gamma, rescale=(0.9, 1.1))).item() / (gamma * base)
        assert 0.9 * (1 - 1e-9) <= narrow <= 1.1 * (1 + 1e-9) or not has_conflict(gramian)


@given(gradients(), st.floats(0.5, 3))
def test_without_conflict_mmpareto_is_uniform_times_gamma(rows, gamma):
    gramian = compute_gramian(list(rows.abs()))  # all in one orthant
    for method in (mmpareto, mmpareto_continuous):
        assert torch.equal(method(gramian, gamma=gamma), uniform(gramian, gamma=gamma))
    torch.testing.assert_close(upgrad(gramian), uniform(gramian), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ratio", [1.0, 1.42, 3.0, 10.0])
@pytest.mark.parametrize("cosine", [-0.01, -0.2, -0.5, -0.9, -0.99])
def test_rescale_factor_of_two_objectives_has_a_closed_form(ratio, cosine):
    """s = sqrt(((r + 1/r)^2 / 4 - cos^2) / (1 - cos^2)), which is at least 1."""
    gramian = torch.tensor([[1.0, ratio * cosine], [ratio * cosine, ratio**2]], dtype=torch.float64)
    s = math.sqrt(((ratio + 1 / ratio) ** 2 / 4 - cosine**2) / (1 - cosine**2))
    expected = s * min_norm_scaled(gramian)
    torch.testing.assert_close(mmpareto(gramian, gamma=1.0, rescale=(0.1, 100.0)), expected)
    assert s >= 1


def two_gradients(cosine, ratio):
    """Return the Gramian of two gradients with this cosine and ratio of lengths."""
    return torch.tensor([[1.0, ratio * cosine], [ratio * cosine, ratio**2]], dtype=torch.float64)


def test_only_the_continuous_mmpareto_has_no_jump_at_cosine_0():
    below, above = two_gradients(-1e-9, 1.42), two_gradients(1e-9, 1.42)
    jump = (mmpareto(below, gamma=1.0) - mmpareto(above, gamma=1.0)).abs().max()
    torch.testing.assert_close(min_norm_scaled(below), torch.tensor([1.34, 0.66]).double(), atol=0.01, rtol=0)
    assert jump > 0.3
    assert (mmpareto_continuous(below, gamma=1.0) - mmpareto_continuous(above, gamma=1.0)).abs().max() < 1e-8


@given(gradients(largest=5))
@settings(max_examples=100)
def test_upgrad_projects_each_gradient_onto_the_dual_cone(rows):
    """The projection of g_i is g_i + sum_j lambda_j g_j with lambda >= 0 the non-negative least squares of -g_i."""
    gramian, total = compute_gramian(list(rows)), torch.zeros(rows.shape[1], dtype=torch.float64)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
    for i in range(len(rows)):
        away, _ = nnls(unit.numpy().T, -rows[i].numpy())
        total += rows[i] + torch.tensor(away) @ unit
    torch.testing.assert_close(upgrad(gramian) @ rows, total, rtol=1e-6, atol=1e-7 * math.sqrt(scale_of(rows)))


def per_tensor_case():
    """Return two tensors of one encoder: strong conflict in the first, agreement in the second (lengths far apart)."""
    multimodal = [torch.tensor([1.0, 0.0]), torch.tensor([0.1, 0.0])]
    unimodal = [torch.tensor([-3.0, 0.9]), torch.tensor([1.0, 0.2])]
    return [m.double() for m in multimodal], [u.double() for u in unimodal]


def test_per_tensor_rescaling_may_oppose_an_objective():
    pairs = list(zip(*per_tensor_case(), strict=True))
    tensors = torch.stack([compute_gramian(pair) for pair in pairs])
    whole = tensors.sum(0)
    published = mmpareto_per_tensor(whole, tensors, gamma=1.0)
    tensor_products = alignment(tensors, published).sum(0)
    whole_products = alignment(whole, mmpareto(whole, gamma=1.0))
    assert has_conflict(whole)
    assert (whole_products > 0).all()
    assert tensor_products.min() < -0.1


def test_per_tensor_rescaling_equals_the_published_loop():
    random = torch.Generator().manual_seed(1)
    pairs = [torch.randn(2, n, generator=random, dtype=torch.float64) for n in (3, 5, 2)]
    pairs = [torch.stack([p[0], p[1] - 2 * p[0]]) for p in pairs]
    tensors = torch.stack([compute_gramian(list(p)) for p in pairs])
    weights = mmpareto_per_tensor(tensors.sum(0), tensors, gamma=1.5)
    alpha = min_norm(tensors.sum(0))
    for pair, w in zip(pairs, weights, strict=True):
        new = 2 * alpha @ pair
        d = pair.sum(0).norm() / new.norm()
        expected = new * d * 1.5 if d > 1 else new * 1.5
        torch.testing.assert_close(w @ pair, expected)


@pytest.mark.parametrize("name", ON_GRAMIANS)
@given(rows=gradients(largest=4), factor=st.sampled_from([2.0**-16, 2.0**16]))
@settings(max_examples=25)
def test_a_common_scale_changes_no_weight(name, rows, factor):
    choose = weighting(name)
    torch.testing.assert_close(
        choose(compute_gramian(list(rows * factor))), choose(compute_gramian(list(rows))), rtol=1e-9, atol=0
    )


def test_the_classes_are_the_functions_with_their_options():
    gramian = two_gradients(-0.5, 2.0)
    narrow = {"gamma": 2.0, "rescale": (1.0, 1.0)}
    assert torch.equal(MMPareto(**narrow)(gramian), mmpareto(gramian, **narrow))
    assert torch.equal(MMParetoContinuous(**narrow)(gramian), mmpareto_continuous(gramian, **narrow))
    assert torch.equal(MinNorm()(gramian), min_norm(gramian))
    assert torch.equal(Uniform(gamma=2.0)(gramian), uniform(gramian, gamma=2.0))
    assert weighting("mmpareto", gamma=2.0) == MMPareto(gamma=2.0)
    with pytest.raises(ConfigError, match="must be positive"):
        MMPareto(gamma=-1.0)


@pytest.mark.parametrize("name", ON_GRAMIANS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_batch_of_gramians_is_weighed_independently(name, count):
    choose = weighting(name)
    batch = torch.stack([compute_gramian(list(draw(count, 4, seed, 1.0))) for seed in range(6)])
    one_by_one = torch.stack([choose(g) for g in batch])
    torch.testing.assert_close(choose(batch), one_by_one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        choose(batch.view(2, 3, count, count)).view(6, count), one_by_one, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", ON_GRAMIANS)
@pytest.mark.parametrize("count", [2, 4])
def test_an_absent_objective_does_not_change_the_other_weights(name, count):
    choose = weighting(name)
    rows = draw(count, 3, 5)
    rows[-1] = 0
    weights = choose(compute_gramian(list(rows)))
    assert weights.isfinite().all()
    if name not in ("stop_gradient",):
        torch.testing.assert_close(weights[:-1], choose(compute_gramian(list(rows[:-1]))), rtol=1e-9, atol=1e-9)
    nothing = choose(torch.zeros(count, count, dtype=torch.float64))
    assert nothing.isfinite().all()


@pytest.mark.parametrize("name", ON_GRAMIANS)
def test_opposed_gradients_give_finite_weights(name):
    rows = draw(1, 5, 0)
    for other in (-1.0, -3.0):
        assert weighting(name)(compute_gramian([rows[0], other * rows[0]])).isfinite().all()


@pytest.mark.parametrize("name", ON_GRAMIANS)
@pytest.mark.parametrize("count", [2, 4])
def test_no_weighting_waits_for_the_host(name, count):
    gramian = compute_gramian(list(draw(count, 4, 0)))[None].repeat(3, 1, 1)
    weighting(name)(gramian)  # the table of active sets is made once
    with HostReads() as reads:
        weighting(name)(gramian)
    assert reads.seen == []


MATRICES = {
    "torchjd's base": [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]],
    "three rows": [[1.0, -4.0, 1.0], [6.0, 1.0, 1.0], [-2.0, 1.0, 0.5]],
    "lengths far apart": [[100.0, 0.0], [-1.0, 1.0], [0.0, 3.0]],
    "agreeing": [[1.0, 0.2], [0.9, 0.1]],
    "four of five dimensions": draw(4, 5, 3).tolist(),
    "seven of three dimensions": draw(7, 3, 4).tolist(),
}


@pytest.mark.parametrize("name", MATRICES)
def test_min_norm_agrees_with_torchjds_mgda(name):
    """TorchJD iterates (Frank-Wolfe) and so only comes near; ours is exact and may only be shorter."""
    torchjd = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed: pip install torchjd")
    rows = torch.tensor(MATRICES[name], dtype=torch.float64)
    gramian = compute_gramian(list(rows))
    theirs = combined_norm(gramian, torchjd.MGDAWeighting(epsilon=1e-9, max_iters=20_000)(gramian)).item()
    ours = combined_norm(gramian, min_norm(gramian)).item()
    assert ours <= theirs * (1 + 1e-12)
    assert ours == pytest.approx(theirs, abs=2e-3 * math.sqrt(scale_of(rows)))


@pytest.mark.parametrize("name", MATRICES)
def test_pcgrad_of_two_rows_agrees_with_torchjds(name):
    torchjd = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed: pip install torchjd")
    gramian = compute_gramian(list(torch.tensor(MATRICES[name], dtype=torch.float64)[:2]))
    torch.testing.assert_close(pcgrad(gramian), torchjd.PCGradWeighting()(gramian))


def test_known_values_of_torchjds_base_matrix():
    gramian = compute_gramian(list(torch.tensor(MATRICES["torchjd's base"])))
    torch.testing.assert_close(min_norm(gramian), torch.tensor([0.6, 0.4]).double())
    torch.testing.assert_close(gramian, torch.tensor([[18.0, -22.0], [-22.0, 38.0]]).double())
    assert lowest_cosine(gramian).item() == pytest.approx(-22 / math.sqrt(18 * 38))
    assert cosines(gramian).diagonal().tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mmparetto", {}, "did you mean 'mmpareto'"),
        ("mmpareto", {"gama": 2.0}, "did you mean 'gamma'"),
        ("min_norm", {"gamma": 2.0}, "has no option 'gamma'"),
        ("mmpareto", {"gamma": 0.0}, "must be positive"),
        ("mmpareto", {"rescale": (2.0, 1.0)}, "low <= high"),
        ("mmpareto", {"rescale": (1.0, math.inf)}, "both finite"),
    ],
)
def test_invalid_weightings_raise_a_config_error(name, options, message):
    with pytest.raises(ConfigError, match=message):
        weighting(name, **options)


def test_the_exact_solvers_raise_for_more_than_eight_objectives_but_pcgrad_does_not():
    gramian = compute_gramian(list(draw(9, 20, 0)))
    for method in (min_norm, upgrad, mmpareto):
        with pytest.raises(ConfigError, match="9 objectives"):
            method(gramian)
    assert pcgrad(gramian).shape == (9,)
    assert isinstance(weighting("mmpareto_per_tensor"), MMParetoPerTensor)
