"""Weightings: maps from the Gramian of K objectives to K weights; the update direction is h = sum_i w_i g_i.

Objective 0 is the multimodal (joint) one, the others are unimodal; for several tasks the order is free. All are pure,
accept a batch of Gramians, depend on nothing but ratios (a common factor on all gradients, such as the scale of mixed
precision, changes no weight), never divide by an absent objective's zero norm, and never wait for the host.
What each guarantees, for gradients that are not exactly opposed:

    opposes no objective   MinNorm, ScaledMinNorm, MMPareto, MMParetoContinuous, UPGrad; PCGrad for two objectives
    |h| = gamma |sum g|    MMPareto, MMParetoContinuous, while the rescale factor lies inside its range
    the plain sum x gamma  Uniform always; both MMPareto without conflict (gamma = 1: UPGrad and PCGrad, too)
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from xmodal.errors import ConfigError, nearest
from xmodal.gradients.dual_cone import pcgrad, upgrad
from xmodal.gradients.gramian import combined_norm, has_conflict, is_present
from xmodal.gradients.min_norm import min_norm

Gramian = Float64[Tensor, "*M K K"]
Weights = Float64[Tensor, "*M K"]
Weighting = Callable[[Tensor], Tensor]

PUBLISHED_GAMMA = 1.5  # hard-coded in the published code
DEFAULT_RESCALE = (0.1, 10.0)  # the paper has no upper limit; its factor is unbounded near exact opposition


def uniform(gramian: Gramian, *, gamma: float = 1.0) -> Weights:
    """Return gamma (1, ..., 1): the baseline that adds all losses; with MMPareto's gamma it is the control of that."""
    return torch.full_like(gramian[..., 0], gamma)


def min_norm_scaled(gramian: Gramian) -> Weights:
    """Return `min_norm` x the number of present objectives, which has the total weight of `uniform`."""
    return min_norm(gramian) * is_present(gramian).sum(-1, keepdim=True)


def mmpareto(
    gramian: Gramian, *, gamma: float = PUBLISHED_GAMMA, rescale: tuple[float, float] = DEFAULT_RESCALE
) -> Weights:
    """Return the weights of MMPareto (Wei & Hu 2024, algorithm 1), rescaled over the whole encoder.

    If no inner product is negative: gamma (1, ..., 1). Otherwise gamma s w with w = `min_norm_scaled` and
    s = |sum g| / |sum w g|, clamped to the range `rescale` (low, high). For two objectives s >= 1.
    """
    return _rescale_to_sum(gramian, min_norm_scaled(gramian), gamma=gamma, rescale=rescale)


def mmpareto_continuous(
    gramian: Gramian, *, gamma: float = PUBLISHED_GAMMA, rescale: tuple[float, float] = DEFAULT_RESCALE
) -> Weights:
    """Return weights with MMPareto's length and UPGrad's direction, which do not jump where a cosine passes zero.

    At cos = 0 and unequal norms the paper's rule jumps from the sum to weights in the inverse ratio of the squared
    norms. Here s may be below 1, because UPGrad lengthens the sum.
    """
    return _rescale_to_sum(gramian, upgrad(gramian), gamma=gamma, rescale=rescale)


def mmpareto_per_tensor(
    gramian: Float64[Tensor, "K K"], tensors: Float64[Tensor, "T K K"], *, gamma: float = PUBLISHED_GAMMA
) -> Float64[Tensor, "T K"]:
    """Return weights for each of T parameter tensors: the published code rescales each by a factor of its own.

    The direction is decided on the whole encoder's `gramian`; tensor t is then multiplied by gamma max(1, s_t) with s_t
    from its own Gramian in `tensors` (sum over t = `gramian`). The result may oppose an objective: the factors differ
    between tensors. GeWu-Lab/MMPareto_ICML2024 at a339db39; there cos = 0 counts as conflict, here it does not.
    """
    conflict = has_conflict(gramian)
    direction = torch.where(conflict, min_norm_scaled(gramian), torch.ones_like(gramian[0])).expand_as(tensors[:, 0])
    factor = _rescale_factor(tensors, direction, 1.0, torch.inf)
    return gamma * factor.unsqueeze(-1) * direction


def stop_gradient(gramian: Gramian) -> Weights:
    """Return (0, 1, ..., 1): the encoders learn from their unimodal losses only (DGL, arXiv 2507.10213)."""
    weights = torch.ones_like(gramian[..., 0])
    return torch.cat([torch.zeros_like(weights[..., :1]), weights[..., 1:]], -1)


@dataclass(frozen=True)
class Uniform:
    """`uniform` as a callable: the plain sum of all gradients, x `gamma` (MMPareto's control).

    >>> Uniform()(torch.eye(2).double())
    tensor([1., 1.], dtype=torch.float64)
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, gramian: Gramian) -> Weights:
        return uniform(gramian, gamma=self.gamma)


@dataclass(frozen=True)
class MinNorm:
    """`min_norm` as a callable: the shortest vector in the convex hull of the gradients (MGDA)."""

    def __call__(self, gramian: Gramian) -> Weights:
        return min_norm(gramian)


@dataclass(frozen=True)
class ScaledMinNorm:
    """`min_norm_scaled` as a callable: the direction of `MinNorm` with the total weight of `Uniform`."""

    def __call__(self, gramian: Gramian) -> Weights:
        return min_norm_scaled(gramian)


@dataclass(frozen=True)
class MMPareto:
    """`mmpareto` as a callable (Wei & Hu 2024): no conflict with any objective, at `gamma` x the length of the sum.

    >>> MMPareto()(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]).double())  # unit gradients at 120 degrees
    tensor([1.5000, 1.5000], dtype=torch.float64)
    """

    gamma: float = PUBLISHED_GAMMA
    rescale: tuple[float, float] = DEFAULT_RESCALE

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)
        _check_rescale(self.rescale)

    def __call__(self, gramian: Gramian) -> Weights:
        return mmpareto(gramian, gamma=self.gamma, rescale=self.rescale)


@dataclass(frozen=True)
class MMParetoContinuous:
    """`mmpareto_continuous` as a callable: MMPareto without a jump where a cosine passes zero."""

    gamma: float = PUBLISHED_GAMMA
    rescale: tuple[float, float] = DEFAULT_RESCALE

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)
        _check_rescale(self.rescale)

    def __call__(self, gramian: Gramian) -> Weights:
        return mmpareto_continuous(gramian, gamma=self.gamma, rescale=self.rescale)


@dataclass(frozen=True)
class MMParetoPerTensor:
    """`mmpareto_per_tensor` as a callable of (Gramian, Gramians of T tensors): for `ParameterSpace` only."""

    gamma: float = PUBLISHED_GAMMA

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, gramian: Float64[Tensor, "K K"], tensors: Float64[Tensor, "T K K"]) -> Float64[Tensor, "T K"]:
        return mmpareto_per_tensor(gramian, tensors, gamma=self.gamma)


@dataclass(frozen=True)
class PCGrad:
    """`pcgrad` as a callable: each gradient without what opposes the others (Yu et al. 2020)."""

    def __call__(self, gramian: Gramian) -> Weights:
        return pcgrad(gramian)


@dataclass(frozen=True)
class UPGrad:
    """`upgrad` as a callable: each gradient projected onto the directions that oppose none (Quinton & Rey 2024)."""

    def __call__(self, gramian: Gramian) -> Weights:
        return upgrad(gramian)


@dataclass(frozen=True)
class StopGradient:
    """`stop_gradient` as a callable: the multimodal loss trains the fusion only (DGL)."""

    def __call__(self, gramian: Gramian) -> Weights:
        return stop_gradient(gramian)


WEIGHTINGS: dict[str, Callable[..., Weighting | MMParetoPerTensor]] = {
    "uniform": Uniform,
    "min_norm": MinNorm,
    "min_norm_scaled": ScaledMinNorm,
    "mmpareto": MMPareto,
    "mmpareto_continuous": MMParetoContinuous,
    "mmpareto_per_tensor": MMParetoPerTensor,
    "pcgrad": PCGrad,
    "upgrad": UPGrad,
    "stop_gradient": StopGradient,
}


def weighting(name: str, **options: object) -> Weighting | MMParetoPerTensor:
    """Return the weighting of that name with its options (`gamma`, `rescale`); ConfigError for unknown ones.

    >>> weighting("mmpareto", gamma=1.0)
    MMPareto(gamma=1.0, rescale=(0.1, 10.0))
    """
    if name not in WEIGHTINGS:
        raise ConfigError(f"no weighting {name!r}; {nearest(name, WEIGHTINGS)}")
    valid = inspect.signature(WEIGHTINGS[name]).parameters
    for option in options:
        if option not in valid:
            raise ConfigError(f"{name} has no option {option!r}; {nearest(option, valid)}")
    return WEIGHTINGS[name](**options)


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma < float("inf"):
        raise ConfigError(f"gamma={gamma} must be positive and finite (1.5 in the published code)")


def _check_rescale(rescale: tuple[float, float]) -> None:
    low, high = rescale
    if not 0 <= low <= high < float("inf"):
        raise ConfigError(f"rescale={rescale} must be (low, high) with 0 <= low <= high, both finite")


def _rescale_to_sum(gramian: Gramian, direction: Weights, *, gamma: float, rescale: tuple[float, float]) -> Weights:
    """Return gamma x the sum without conflict, else gamma x the direction at the sum's length, the factor clamped."""
    scaled = _rescale_factor(gramian, direction, *rescale).unsqueeze(-1) * direction
    return gamma * torch.where(has_conflict(gramian).unsqueeze(-1), scaled, torch.ones_like(direction))


def _rescale_factor(gramian: Gramian, direction: Weights, low: float, high: float) -> Float64[Tensor, "*M"]:
    """Return |sum g| / |sum w g| within [low, high]; `high` (1 if infinite) if the direction has no length left."""
    target, length = combined_norm(gramian, torch.ones_like(direction)), combined_norm(gramian, direction)
    stationary = 1.0 if high == torch.inf else high
    return torch.where(length == 0, stationary, target / torch.where(length == 0, 1.0, length)).clamp(low, high)
