"""Flatness of quadratic losses with a known Hessian and of small networks, compared with their whole Hessian."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from support.clip_batches import classifier, clip_batch
from xmodal.errors import ConfigError
from xmodal.metrics.flatness import filter_normalised_direction, hessian_product, loss_along_directions, top_eigenvalue


def quadratic(*curvatures: float) -> tuple[list, list[nn.Parameter]]:
    """Return w H w / 2 + linear, in two parts that add up to it, with H of these eigenvalues in a random basis."""
    draw = torch.Generator().manual_seed(0)
    size = len(curvatures)
    basis = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q
    hessian = basis @ torch.diag(torch.tensor(curvatures, dtype=torch.float64)) @ basis.T
    w = nn.Parameter(torch.randn(1, size, generator=draw, dtype=torch.float64))
    parts = [lambda: (w @ hessian @ w.T).sum() / 8, lambda: 3 * (w @ hessian @ w.T).sum() / 8 + w.sum()]
    return parts, [w]


@pytest.mark.parametrize(
    ("curvatures", "top"),
    [((5.0, 2.0, 1.0, 0.5), 5.0), ((3.0, -1.0, 0.0, 0.0), 3.0), ((2.0, -7.0, 1.0, 0.0), 2.0), ((-4.0, -1.0), -1.0)],
)
def test_the_top_eigenvalue_of_a_quadratic_loss_is_exact(curvatures, top):
    """Also if the eigenvalue of the largest absolute value is negative."""
    eigenvalue = top_eigenvalue(*quadratic(*curvatures), iterations=500, tolerance=1e-9)
    assert eigenvalue.value == pytest.approx(top, rel=1e-5) and eigenvalue.converged and eigenvalue.residual < 1e-2


def test_the_bound_rises_and_the_residual_bounds_the_error():
    values = [top_eigenvalue(*quadratic(5.0, 4.5, 1.0, 0.5), iterations=n, tolerance=0.0) for n in (1, 2, 4, 8)]
    assert all(value.value <= following.value <= 5.0 for value, following in pairwise(values))
    assert not values[0].converged and [value.iterations for value in values] == [1, 2, 4, 8]
    for value in values:
        assert min(abs(value.value - truth) for truth in (5.0, 4.5, 1.0, 0.5)) <= value.residual * value.value + 1e-12


def test_a_linear_loss_has_eigenvalue_0():
    w = nn.Parameter(torch.ones(2, 2))
    assert top_eigenvalue([w.sum], [w]).to_json() == {
        "value": 0.0, "residual": 0.0, "iterations": 1, "converged": True
    }  # fmt: skip


class Attention(nn.Module):
    """Tokens that attend to each other, as in a transformer encoder, small enough for its whole Hessian."""

    def __init__(self):
        super().__init__()
        self.maps, self.norm, self.out = nn.Linear(3, 9), nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x):
        q, k, v = self.maps(self.norm(x)).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).mean(-2))


@pytest.mark.parametrize("kind", ["convolution", "attention"])
def test_products_equal_those_with_the_whole_hessian(kind):
    torch.manual_seed(0)
    if kind == "attention":
        model, x = Attention().double(), torch.randn(4, 5, 3, dtype=torch.float64)
    else:
        layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(16, 2)]
        model, x = nn.Sequential(*layers).double(), torch.randn(4, 1, 4, 4, dtype=torch.float64)
    label = torch.tensor([0, 1, 1, 0])
    parameters = list(model.parameters())
    named = dict(model.named_parameters())
    sizes = [p.numel() for p in parameters]

    def loss_at(flat):
        pieces = [part.view_as(p) for part, p in zip(flat.split(sizes), parameters, strict=True)]
        return F.cross_entropy(torch.func.functional_call(model, dict(zip(named, pieces, strict=True)), x), label)

    whole = torch.cat([p.detach().flatten() for p in parameters])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(loss_at, whole)
    parts = [lambda i=i: F.cross_entropy(model(x[i : i + 2]), label[i : i + 2]) / 2 for i in (0, 2)]
    vector = torch.randn(sum(sizes), dtype=torch.float64)
    pieces = [part.view_as(p) for part, p in zip(vector.split(sizes), parameters, strict=True)]
    product = torch.cat([x.flatten() for x in hessian_product(parts, parameters)(pieces)])
    torch.testing.assert_close(product, hessian @ vector)
    top = top_eigenvalue(parts, parameters, iterations=300, tolerance=1e-8)
    assert top.value == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-3)


@pytest.mark.parametrize("fusion", ["concatenation", "transformer"])
def test_a_classifier_can_be_measured_and_does_not_change(fusion):
    model = classifier(fusion).eval()
    batch = clip_batch(6)
    before = copy.deepcopy(model.state_dict())
    part = lambda: F.cross_entropy(model.multimodal_scores(*model.encode(batch)), batch.fields["label"])  # noqa: E731
    parameters = [p for name, p in model.named_parameters() if not name.startswith("heads")]
    landscape = loss_along_directions([part], parameters, directions=2, points=3)
    assert landscape.loss == part().item() and landscape.offsets == (-1.0, 0.0, 1.0) and len(landscape.losses) == 2
    top = top_eigenvalue([part], parameters, iterations=3)
    assert top.iterations >= 3 and top.value == top.value
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in parameters)


def test_along_a_direction_a_quadratic_loss_is_a_parabola():
    """With one filter as long as w, the curvature along it is d H d, and the parts add up."""
    parts, [w] = quadratic(5.0, 2.0, 1.0, 0.5)
    landscape = loss_along_directions(parts, [w], directions=3, radius=0.5, points=5, seed=4)
    draw = torch.Generator().manual_seed(4)
    for row in landscape.losses:
        [d] = filter_normalised_direction([w], draw)
        assert d.norm().item() == pytest.approx(w.norm().item())
        curvature = (d * hessian_product(parts, [w])([d])[0]).sum().item()
        bend = row[0] + row[-1] - 2 * row[2]
        assert bend == pytest.approx(curvature * 0.5**2, rel=1e-6)
    assert landscape.rise == pytest.approx(sum(row[0] + row[-1] - 2 * row[2] for row in landscape.losses) / 6, rel=1e-6)


def test_directions_have_the_length_of_each_filter_and_are_0_without_filters():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.GroupNorm(1, 5), nn.Flatten(), nn.Linear(5, 3))
    direction = filter_normalised_direction(list(model.parameters()), torch.Generator().manual_seed(0))
    for p, d in zip(model.parameters(), direction, strict=True):
        if p.ndim < 2:
            assert not d.any()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1))


def test_the_landscape_does_not_depend_on_the_scale_of_layers():
    """The purpose of filter normalisation: relu(c w1 x) w2 / c is the same network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)).double()
    x, label = torch.randn(16, 4, dtype=torch.float64), torch.randint(0, 2, (16,))
    results = []
    for factor in (1.0, 10.0):
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled[0].weight.mul_(factor), scaled[2].weight.div_(factor)
        part = lambda net=scaled: F.cross_entropy(net(x), label)  # noqa: E731
        parameters = list(scaled.parameters())
        results.append((loss_along_directions([part], parameters, points=5), top_eigenvalue([part], parameters)))
    torch.testing.assert_close(torch.tensor(results[0][0].losses), torch.tensor(results[1][0].losses))
    assert results[1][1].value > 5 * results[0][1].value  # the eigenvalue is not so protected


@pytest.mark.parametrize("options", [{"points": 4}, {"points": 1}, {"directions": 0}, {"radius": 0.0}])
def test_invalid_options_raise_a_config_error(options):
    with pytest.raises(ConfigError, match="odd and at least 3"):
        loss_along_directions(*quadratic(1.0, 2.0), **options)


def test_values_that_are_not_finite_become_null():
    w = nn.Parameter(torch.ones(1, 1))
    values = loss_along_directions([lambda: 1 / (w.sum() - 1)], [w], points=3, directions=1).to_json()
    assert values["loss"] is None and values["rise"] is None
