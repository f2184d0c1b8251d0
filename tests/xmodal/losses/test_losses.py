"""The tiled contrastive losses equal the textbook losses in value and gradients, for any masks, ids and tile size."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from support.naive_losses import naive_info_nce, naive_sigmoid
from xmodal.losses.contrastive import info_nce, sigmoid_loss

BOTH = pytest.mark.parametrize("kind", ["info_nce", "sigmoid"])


def features(count, width=5, *, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return tuple(normalize(torch.randn(count, width, generator=random, dtype=dtype), dim=1) for _ in range(2))


def value_and_gradients(loss, kind, u, v, log_scale=1.3, bias=-0.7, dtype=None, **arguments):
    """Return [value, du, dv, dlog_scale, dbias], all float64."""
    leaves = [u, v, torch.tensor(log_scale), torch.tensor(bias)][: 3 if kind == "info_nce" else 4]
    leaves = [x.detach().to(dtype or u.dtype).requires_grad_() for x in leaves]
    value = loss(*leaves, **arguments)
    return [x.double() for x in (value.detach(), *torch.autograd.grad(value, leaves))]


def tiled_loss(kind):
    return info_nce if kind == "info_nce" else sigmoid_loss


def naive_loss(kind):
    return naive_info_nce if kind == "info_nce" else naive_sigmoid


@st.composite
def cases(draw):
    """Draw rows with any mask and any coincidence of up to three id columns, and any tile size."""
    count = draw(st.integers(1, 13))
    case = {"valid": None, "ids": None}
    if draw(st.booleans()):
        case["valid"] = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    columns = draw(st.integers(0, 3))
    if columns:
        values = st.sampled_from([-(2**63), -2, -1, 0, 7, 2**63 - 1])
        ids = draw(st.lists(values, min_size=count * columns, max_size=count * columns))
        case["ids"] = torch.tensor(ids).view(count, columns)
        if columns == 1 and draw(st.booleans()):
            case["ids"] = case["ids"][:, 0]
    return count, draw(st.integers(0, 99)), draw(st.integers(1, 15)), case


@BOTH
@given(case=cases())
@settings(deadline=None, max_examples=60)
def test_value_and_every_gradient_equal_the_textbook_formula(kind, case):
    count, seed, tile, masks = case
    u, v = features(count, seed=seed)
    actual = value_and_gradients(tiled_loss(kind), kind, u, v, tile=tile, **masks)
    reference = value_and_gradients(naive_loss(kind), kind, u, v, **masks)
    for actual_value, expected_value in zip(actual, reference, strict=True):
        torch.testing.assert_close(actual_value, expected_value, rtol=1e-11, atol=1e-12)


@BOTH
def test_a_joint_permutation_only_permutes_the_gradients(kind):
    u, v = features(17)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    ids, valid = torch.arange(17) % 6, torch.arange(17) % 5 != 3
    before = value_and_gradients(tiled_loss(kind), kind, u, v, tile=4, ids=ids, valid=valid)
    after = value_and_gradients(tiled_loss(kind), kind, u[order], v[order], tile=4, ids=ids[order], valid=valid[order])
    before[1:3] = before[1][order], before[2][order]
    for actual, expected in zip(after, before, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@BOTH
def test_gradients_equal_finite_differences(kind):
    u, v = (x.requires_grad_() for x in features(5, 3))
    scalars = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.4, -0.3)]
    leaves = (u, v, *scalars[: 1 if kind == "info_nce" else 2])
    masks = {"valid": torch.tensor([True, True, False, True, True]), "ids": torch.tensor([1, 2, 1, 2, 3])}
    assert torch.autograd.gradcheck(lambda *x: tiled_loss(kind)(*x, tile=2, **masks), leaves)


@BOTH
def test_masked_rows_may_hold_nan_and_inf(kind):
    u, v = features(9)
    valid = torch.arange(9) % 3 != 1
    clean = value_and_gradients(tiled_loss(kind), kind, u[valid], v[valid])
    u[~valid], v[~valid] = torch.nan, torch.inf
    value, du, dv, *scalars = value_and_gradients(tiled_loss(kind), kind, u, v, valid=valid)
    assert not du[~valid].any() and not dv[~valid].any()
    for actual, expected in zip((value, du[valid], dv[valid], *scalars), clean, strict=True):
        torch.testing.assert_close(actual, expected)


@BOTH
@pytest.mark.parametrize("count", [0, 4])
def test_without_a_valid_row_the_loss_and_all_gradients_are_zero(kind, count):
    u, v = features(count)
    results = value_and_gradients(tiled_loss(kind), kind, u, v, valid=torch.zeros(count, dtype=torch.bool))
    assert all(not x.any() for x in results)


@BOTH
def test_rows_that_share_an_id_are_no_negatives(kind):
    u, v = features(6)
    all_alike = value_and_gradients(tiled_loss(kind), kind, u, v, ids=torch.full((6,), 3))
    pairs_alone = [value_and_gradients(tiled_loss(kind), kind, u[[i]], v[[i]])[0] for i in range(6)]
    torch.testing.assert_close(all_alike[0], torch.stack(pairs_alone).mean())


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_a_scale_of_100_is_exact_in_float32(kind, seed):
    u, v = features(64, 4, seed=seed)
    u[:8] = -v[:8]  # true pairs at -100, others near +100: a shared maximum would underflow
    scale = math.log(100)
    actual = value_and_gradients(tiled_loss(kind), kind, u.float(), v.float(), log_scale=scale, tile=16)
    reference = value_and_gradients(naive_loss(kind), kind, u, v, log_scale=scale)
    for actual_value, expected_value in zip(actual, reference, strict=True):
        torch.testing.assert_close(
            actual_value, expected_value, rtol=1e-4, atol=1e-4 * expected_value.abs().max().item()
        )


def test_infonce_of_one_pair_is_zero():
    u = torch.tensor([[1.0, 0.0]])
    assert info_nce(u, -u, torch.tensor(math.log(100.0))).item() == 0.0


def test_sigmoid_resolves_tiny_losses_of_well_separated_pairs():
    u = torch.eye(4)
    value = sigmoid_loss(u, u, torch.tensor(math.log(60.0)), torch.tensor(-30.0))
    torch.testing.assert_close(value, torch.tensor(4 * math.log1p(math.exp(-30.0))), rtol=1e-4, atol=0.0)


@BOTH
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_logits_stay_float32_under_autocast_and_from_16_bit_features(kind, half):
    u, v = (x.to(half) for x in features(48, 64))
    scale = math.log(100)
    reference = value_and_gradients(naive_loss(kind), kind, u.double(), v.double(), log_scale=scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaves = [
            u.clone().requires_grad_(),
            v.clone().requires_grad_(),
            torch.tensor(scale, requires_grad=True),
        ]
        leaves += [torch.tensor(-0.7, requires_grad=True)] if kind == "sigmoid" else []
        value = tiled_loss(kind)(*leaves, tile=20)
        gradients = torch.autograd.grad(value, leaves)
    assert value.dtype == torch.float32
    assert [g.dtype for g in gradients] == [half, half] + [torch.float32] * (len(leaves) - 2)
    torch.testing.assert_close(value.double(), reference[0], rtol=1e-5, atol=0.0)
    rounding = torch.finfo(half).eps  # of the returned gradient only
    for actual, expected in zip(gradients, reference[1:], strict=True):
        torch.testing.assert_close(
            actual.double(), expected, rtol=rounding, atol=rounding * expected.abs().max().item()
        )


@BOTH
def test_logits_ignore_reduced_matmul_precision(kind, monkeypatch):
    """Not every processor has reduced products, so the precision in force is recorded as well as the value."""
    u, v = features(64, 256, dtype=torch.float32)
    exact = value_and_gradients(tiled_loss(kind), kind, u, v, log_scale=math.log(100))[0]
    product, precisions = torch.mm, []

    def recording_product(*operands, out):
        precisions.append(torch.get_float32_matmul_precision())
        return product(*operands, out=out)

    monkeypatch.setattr(torch, "mm", recording_product)
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = value_and_gradients(tiled_loss(kind), kind, u, v, log_scale=math.log(100), tile=32)[0]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(previous)
    assert precisions == ["highest"] * 8  # 2 x 2 tiles, forward and backward
    torch.testing.assert_close(reduced, exact, rtol=1e-6, atol=0.0)


@BOTH
@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_frozen_inputs_do_not_change_the_other_gradients(kind, frozen):
    u, v = features(7)
    scalars = [torch.tensor(x, dtype=torch.float64) for x in (1.3, -0.7)]
    inputs = [x.clone() for x in (u, v, *scalars[: 1 if kind == "info_nce" else 2])]
    reference = value_and_gradients(tiled_loss(kind), kind, u, v)[1:]
    for position, x in enumerate(inputs):
        x.requires_grad_(position not in frozen)
    tiled_loss(kind)(*inputs).backward()
    for position, (x, gradient) in enumerate(zip(inputs, reference, strict=True)):
        assert x.grad is None if position in frozen else torch.allclose(x.grad, gradient)


@BOTH
def test_only_features_and_vectors_are_saved_for_the_backward(kind):
    u, v = (x.float().requires_grad_() for x in features(96, 8))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        tiled_loss(kind)(
            u, v, *(torch.tensor(x, requires_grad=True) for x in (1.0, -1.0)[: 2 if kind == "sigmoid" else 1])
        )
    assert sum(sizes) <= 2 * 96 * 8 + 2 * 96 + 2


@BOTH
@pytest.mark.parametrize("with_masks", [False, True])
def test_the_peak_of_all_allocations_is_linear_in_the_batch(kind, with_masks):
    """Counts every allocation of forward and backward, also temporaries inside operators, with the profiler."""
    width, tile = 16, 32

    def peak(count):
        u, v = (x.float() for x in features(count, width))
        masks = {"valid": torch.arange(count) % 7 != 0, "ids": torch.arange(count) % 300} if with_masks else {}
        with torch.profiler.profile(profile_memory=True) as profile:
            value_and_gradients(tiled_loss(kind), kind, u, v, tile=tile, **masks)
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())))

    small, large = peak(256), peak(1024)
    assert 64 * 1024 < large < 1024 * 1024 * 4 / 5  # the matrix alone would have 4 MiB
    assert large < 4.2 * small
