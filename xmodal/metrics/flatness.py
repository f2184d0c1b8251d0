"""Flatness of a minimum: how fast the loss rises around trained parameters.

Two views: the loss along random directions that are as long, filter by filter, as the weights (Li et al. 2018, §4), and
the top eigenvalue of the Hessian by power iteration. The loss is given as `parts`, functions without arguments that add
up to it, one for each mini-batch: memory holds one of them. They must return the same value each time they are called
(evaluation mode, no dropout), for the current parameters.
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

LossParts = Sequence[Callable[[], Tensor]]
Vector = list[Tensor]  # one tensor for each parameter
Product = Callable[[Vector], Vector]


@dataclass(frozen=True, kw_only=True)
class LossLandscape:
    """The loss at A `offsets` (multiples of a direction, 0 in the middle) along R directions."""

    offsets: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]  # R rows of A

    @property
    def loss(self) -> float:
        """Return the loss at the parameters themselves."""
        return self.losses[0][len(self.offsets) // 2]

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the mean over directions at each offset."""
        return tuple(sum(column) / len(column) for column in zip(*self.losses, strict=True))

    @property
    def rise(self) -> float:
        """Return how much higher the loss is at both ends, averaged over directions; 0 if it is flat."""
        return (self.mean[0] + self.mean[-1]) / 2 - self.loss

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        lists = {"places": list(self.offsets), "losses": [[_finite_or_none(x) for x in row] for row in self.losses]}
        return {"loss": _finite_or_none(self.loss), "rise": _finite_or_none(self.rise), **lists}


@dataclass(frozen=True, kw_only=True)
class HessianEigenvalue:
    """The result of power iteration; without negative curvature `value` is a lower bound that only rises."""

    value: float
    iterations: int  # Hessian-vector products
    converged: bool  # whether the last step changed it by less than the tolerance
    residual: float  # |H v - value v| / |value|: there is an eigenvalue within this relative distance

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = {"value": _finite_or_none(self.value), "residual": _finite_or_none(self.residual)}
        return {**values, "iterations": self.iterations, "converged": self.converged}


@torch.no_grad()
def loss_along_directions(
    parts: LossParts,
    parameters: Sequence[nn.Parameter],
    *,
    directions: int = 5,
    radius: float = 1.0,
    points: int = 11,
    seed: int = 0,
) -> LossLandscape:
    """Evaluate the loss at `points` offsets from -radius to radius along random filter-normalised directions.

    At radius 1 every filter has been moved by its own length. Takes directions x (points - 1) + 1 forward passes over
    all parts. The parameters are restored bit for bit. ConfigError for an even number of points.
    """
    if points < 3 or points % 2 == 0 or directions < 1 or not radius > 0:
        raise ConfigError(
            f"directions={directions} must be at least 1, radius={radius} positive, and points={points} odd and at "
            "least 3, so that the minimum itself is one of them"
        )
    half = points // 2
    offsets = tuple(radius * (i - half) / half for i in range(points))
    generator = torch.Generator().manual_seed(seed)
    original = [p.detach().clone() for p in parameters]
    loss_at_minimum, rows = _total_loss(parts), []
    try:
        for _ in range(directions):
            direction = filter_normalised_direction(parameters, generator)
            losses = [
                loss_at_minimum if not offset else _loss_at(parts, parameters, original, direction, offset)
                for offset in offsets
            ]
            rows.append(tuple(losses))
            _move(parameters, original, direction, 0.0)
    finally:
        _move(parameters, original, original, 0.0)
    return LossLandscape(offsets=offsets, losses=tuple(rows))


@torch.no_grad()
def filter_normalised_direction(parameters: Sequence[nn.Parameter], generator: torch.Generator) -> Vector:
    """Draw a Gaussian direction in which every filter is as long as that of the parameters (Li et al. 2018, §4).

    A filter is what makes one output: a slice of the first dimension of a weight (a row of a linear layer, an output
    channel of a convolution). Parameters of one dimension (biases, scales of norms) do not move, as in the published
    code (`biasbn`).
    """
    direction = []
    for p in parameters:
        if p.ndim < 2:
            direction.append(torch.zeros_like(p))
            continue
        random = torch.randn(p.shape, generator=generator).to(p)
        lengths = [x.flatten(1).norm(dim=1) for x in (p, random)]
        scale = lengths[0] / lengths[1].clamp(min=torch.finfo(p.dtype).tiny)
        direction.append(random * scale.view(-1, *[1] * (p.ndim - 1)))
    return direction


def top_eigenvalue(
    parts: LossParts,
    parameters: Sequence[nn.Parameter],
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> HessianEigenvalue:
    """Return the largest eigenvalue of the loss's Hessian at the parameters, by power iteration from a random vector.

    Power iteration finds the eigenvalue of the largest absolute value. If that is negative, a second iteration runs on
    the Hessian shifted by its size, whose largest eigenvalue is the wanted one plus the shift. Each may take
    `iterations` products; a product costs about three backward passes. Stops when the Rayleigh quotient changes by less
    than `tolerance` of itself.

    >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> round(top_eigenvalue([lambda: (w**2 * torch.tensor([1.0, 3.0])).sum()], [w]).value, 2)  # Hessian diag(2, 6)
    6.0
    """
    if iterations < 1:
        raise ConfigError(f"iterations={iterations} must be at least 1")
    product = hessian_product(parts, parameters)
    largest = _power_iteration(product, parameters, iterations, tolerance, seed)
    if largest.value >= 0:
        return largest
    shift = -largest.value
    shifted = _power_iteration(_shift_spectrum(product, shift), parameters, iterations, tolerance, seed + 1)
    value = shifted.value - shift
    residual = shifted.residual * shifted.value / abs(value) if value else 0.0
    return replace(shifted, value=value, iterations=largest.iterations + shifted.iterations, residual=residual)


def hessian_product(parts: LossParts, parameters: Sequence[nn.Parameter]) -> Product:
    """Return the function v -> H v, by differentiating <gradient, v> (Pearlmutter 1994): exact, part by part.

    `.grad` does not change. Attention runs in its plain form meanwhile: fused kernels cannot be differentiated twice.
    """
    inputs = list(parameters)

    def product(vector: Vector) -> Vector:
        total = [torch.zeros_like(p) for p in inputs]
        for part in parts:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                gradients = torch.autograd.grad(
                    part(), inputs, create_graph=True, allow_unused=True, materialize_grads=True
                )
                inner = _dot(gradients, vector)
                if not inner.requires_grad:  # linear in all parameters
                    continue
                products = torch.autograd.grad(inner, inputs, allow_unused=True, materialize_grads=True)
            for total_part, x in zip(total, products, strict=True):
                total_part += x
        return total

    return product


def _power_iteration(
    product: Product, parameters: Sequence[nn.Parameter], iterations: int, tolerance: float, seed: int
) -> HessianEigenvalue:
    """Run power iteration from a random vector until the Rayleigh quotient converges."""
    generator = torch.Generator().manual_seed(seed)
    vector = _unit([torch.randn(p.shape, generator=generator).to(p) for p in parameters])
    previous = math.inf
    for iteration in range(1, iterations + 1):
        product_vector = product(vector)
        value, square = _dot(product_vector, vector).item(), _dot(product_vector, product_vector).item()
        if square == 0:
            return HessianEigenvalue(value=0.0, iterations=iteration, converged=True, residual=0.0)
        distance = max(0.0, square - value**2) ** 0.5  # |H v - value v| for a unit v
        converged = abs(value - previous) <= tolerance * abs(value)
        residual = distance / abs(value) if value else math.inf
        eigenvalue = HessianEigenvalue(value=value, iterations=iteration, converged=converged, residual=residual)
        if converged or not math.isfinite(value):
            break
        previous, vector = value, _unit(product_vector)
    return eigenvalue


def _shift_spectrum(product: Product, shift: float) -> Product:
    """Return the product with H + shift I."""
    return lambda vector: [product_part + shift * x for product_part, x in zip(product(vector), vector, strict=True)]


def _unit(vector: Vector) -> Vector:
    length = _dot(vector, vector).sqrt()
    return [(x / length).to(x.dtype) for x in vector]


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Return the inner product in float64, so that sums over millions of parameters keep their digits."""
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(left, right, strict=True)]).sum()


def _loss_at(
    parts: LossParts, parameters: Sequence[nn.Parameter], original: Vector, direction: Vector, offset: float
) -> float:
    """Return the loss at an offset along a direction."""
    _move(parameters, original, direction, offset)
    return _total_loss(parts)


def _move(parameters: Sequence[nn.Parameter], original: Vector, direction: Vector, offset: float) -> None:
    """Set parameters to original + offset x direction; exactly the original at offset 0."""
    for p, x, d in zip(parameters, original, direction, strict=True):
        p.copy_(torch.add(x, d, alpha=offset) if offset else x)


def _total_loss(parts: LossParts) -> float:
    return float(sum(part().double().item() for part in parts))


def _finite_or_none(x: float) -> float | None:
    """Return None for what JSON cannot express."""
    return x if math.isfinite(x) else None
