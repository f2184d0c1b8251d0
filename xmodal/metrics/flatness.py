"""A loss and the parameters that it is a minimum of in; how fast it rises around there out.

Two views: the loss along random directions that are as long, filter by filter, as the weights (Li et al. 2018, §4),
and the top eigenvalue of the Hessian by power iteration. The loss is given as `parts`, functions without arguments
whose sum it is, one for each mini-batch: memory holds one of them. They must give the same value each time they are
called (evaluation mode, no dropout), and are called with the parameters as they stand.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from xmodal.errors import ConfigError

Parts = Sequence[Callable[[], Tensor]]
Vector = list[Tensor]  # one tensor for each parameter
Product = Callable[[Vector], Vector]


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """The loss at `places` (A multiples of a direction, 0 in the middle) along R directions."""

    places: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]  # R rows of A

    @property
    def loss(self) -> float:
        """At the parameters themselves."""
        return self.losses[0][len(self.places) // 2]

    @property
    def mean(self) -> tuple[float, ...]:
        """Over the directions, at each place."""
        return tuple(sum(column) / len(column) for column in zip(*self.losses, strict=True))

    @property
    def rise(self) -> float:
        """How much higher the loss is at both ends, on the mean over directions: 0 where it is flat."""
        return (self.mean[0] + self.mean[-1]) / 2 - self.loss

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        lists = {"places": list(self.places), "losses": [[_plain(x) for x in row] for row in self.losses]}
        return {"loss": _plain(self.loss), "rise": _plain(self.rise), **lists}


@dataclass(frozen=True, kw_only=True)
class Eigenvalue:
    """What power iteration found. For a Hessian without negative curvature `value` is a lower bound that only rises."""

    value: float
    iterations: int  # Hessian-vector products
    converged: bool  # whether the last step changed it by less than the tolerance
    residual: float  # |H v - value v| / |value|: some eigenvalue lies as near as that, relative to the value

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        figures = {"value": _plain(self.value), "residual": _plain(self.residual)}
        return {**figures, "iterations": self.iterations, "converged": self.converged}


@torch.no_grad()
def loss_along_directions(
    parts: Parts,
    parameters: Sequence[nn.Parameter],
    *,
    directions: int = 5,
    radius: float = 1.0,
    points: int = 11,
    seed: int = 0,
) -> Landscape:
    """The loss at `points` places from -radius to radius along random filter-normalised directions.

    At radius 1 every filter has been moved by its own length. Takes directions x (points - 1) + 1 forward passes over
    all parts. The parameters are afterwards what they were, bit for bit. ConfigError for an even number of points.
    """
    if points < 3 or points % 2 == 0 or directions < 1 or not radius > 0:
        raise ConfigError(
            f"directions={directions} must be at least 1, radius={radius} positive, and points={points} odd and at "
            "least 3, so that the minimum itself is one of them"
        )
    half = points // 2
    places = tuple(radius * (i - half) / half for i in range(points))
    draw = torch.Generator().manual_seed(seed)
    kept = [p.detach().clone() for p in parameters]
    middle, rows = _total(parts), []
    try:
        for _ in range(directions):
            direction = filter_normalised(parameters, draw)
            found = [middle if not place else _displaced(parts, parameters, kept, direction, place) for place in places]
            rows.append(tuple(found))
            _move(parameters, kept, direction, 0.0)
    finally:
        _move(parameters, kept, kept, 0.0)
    return Landscape(places=places, losses=tuple(rows))


@torch.no_grad()
def filter_normalised(parameters: Sequence[nn.Parameter], draw: torch.Generator) -> Vector:
    """A Gaussian direction in which every filter is as long as the parameters' own (Li et al. 2018, §4).

    A filter is what makes one output: a slice of the first dimension of a weight (a row of a linear layer, an output
    channel of a convolution). Parameters of one dimension (biases, scales of norms) stay where they are, as in the
    published code (`biasbn`).
    """
    found = []
    for p in parameters:
        if p.ndim < 2:
            found.append(torch.zeros_like(p))
            continue
        random = torch.randn(p.shape, generator=draw).to(p)
        lengths = [x.flatten(1).norm(dim=1) for x in (p, random)]
        scale = lengths[0] / lengths[1].clamp(min=torch.finfo(p.dtype).tiny)
        found.append(random * scale.view(-1, *[1] * (p.ndim - 1)))
    return found


def top_eigenvalue(
    parts: Parts,
    parameters: Sequence[nn.Parameter],
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Eigenvalue:
    """The largest eigenvalue of the loss's Hessian at the parameters, by power iteration from a random vector.

    Power iteration finds the eigenvalue of the largest size. Where that is negative, a second one runs on the Hessian
    shifted by its size, whose largest one is the wanted one plus that. Each may take `iterations` products, a product
    costs about three backward passes. Stops when the Rayleigh quotient changes by less than `tolerance` of itself.
    """
    if iterations < 1:
        raise ConfigError(f"iterations={iterations} must be at least 1")
    product = hessian_product(parts, parameters)
    found = _power(product, parameters, iterations, tolerance, seed)
    if found.value >= 0:
        return found
    shift = -found.value
    again = _power(_shifted(product, shift), parameters, iterations, tolerance, seed + 1)
    value = again.value - shift
    residual = again.residual * again.value / abs(value) if value else 0.0
    return replace(again, value=value, iterations=found.iterations + again.iterations, residual=residual)


def hessian_product(parts: Parts, parameters: Sequence[nn.Parameter]) -> Product:
    """v -> H v by differentiating <gradient, v> (Pearlmutter 1994), exact, part by part; `.grad` stays as it is.

    Attention runs in its plain form meanwhile: fused kernels cannot be differentiated twice.
    """
    inputs = list(parameters)

    def product(vector: Vector) -> Vector:
        total = [torch.zeros_like(p) for p in inputs]
        for part in parts:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                slopes = torch.autograd.grad(
                    part(), inputs, create_graph=True, allow_unused=True, materialize_grads=True
                )
                inner = _dot(slopes, vector)
                if not inner.requires_grad:  # linear in all parameters
                    continue
                found = torch.autograd.grad(inner, inputs, allow_unused=True, materialize_grads=True)
            for sum_, x in zip(total, found, strict=True):
                sum_ += x
        return total

    return product


def _power(
    product: Product, parameters: Sequence[nn.Parameter], iterations: int, tolerance: float, seed: int
) -> Eigenvalue:
    draw = torch.Generator().manual_seed(seed)
    vector = _unit([torch.randn(p.shape, generator=draw).to(p) for p in parameters])
    before = math.inf
    for done in range(1, iterations + 1):
        image = product(vector)
        value, square = _dot(image, vector).item(), _dot(image, image).item()
        if square == 0:
            return Eigenvalue(value=0.0, iterations=done, converged=True, residual=0.0)
        apart = max(0.0, square - value**2) ** 0.5  # |H v - value v| for a unit v
        settled = abs(value - before) <= tolerance * abs(value)
        residual = apart / abs(value) if value else math.inf
        found = Eigenvalue(value=value, iterations=done, converged=settled, residual=residual)
        if settled or not math.isfinite(value):
            break
        before, vector = value, _unit(image)
    return found


def _shifted(product: Product, shift: float) -> Product:
    return lambda vector: [image + shift * x for image, x in zip(product(vector), vector, strict=True)]


def _unit(vector: Vector) -> Vector:
    length = _dot(vector, vector).sqrt()
    return [(x / length).to(x.dtype) for x in vector]


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Float[Tensor, ""]:
    """In float64, so that sums over millions of parameters keep their digits."""
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(one, other, strict=True)]).sum()


def _displaced(
    parts: Parts, parameters: Sequence[nn.Parameter], kept: Vector, direction: Vector, place: float
) -> float:
    _move(parameters, kept, direction, place)
    return _total(parts)


def _move(parameters: Sequence[nn.Parameter], kept: Vector, direction: Vector, place: float) -> None:
    """Parameters to kept + place x direction; exactly kept at place 0."""
    for p, x, d in zip(parameters, kept, direction, strict=True):
        p.copy_(torch.add(x, d, alpha=place) if place else x)


def _total(parts: Parts) -> float:
    return float(sum(part().double().item() for part in parts))


def _plain(x: float) -> float | None:
    """JSON has no word for what is not finite."""
    return x if math.isfinite(x) else None
