"""A Gramian of K objectives in, K weights out: the direction is h = sum_i w_i g_i.

Objective 0 is the multimodal (joint) one, the others are unimodal; for several tasks the order is free. All are pure,
take a batch of Gramians, depend on nothing but ratios (a common factor on all gradients, such as the scale of mixed
precision, changes no weight), never divide by an absent objective's zero norm, and never wait for the host.
The promise of each, for gradients that are not exactly opposed:

    opposes no objective   min_norm, min_norm_scaled, mmpareto, mmpareto_continuous, upgrad; pcgrad for two objectives
    |h| = gamma |sum g|    mmpareto, mmpareto_continuous, while the rescale factor lies inside its range
    the plain sum x gamma  uniform always; both mmpareto without conflict (gamma = 1: upgrad and pcgrad, too)
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from xmodal.errors import ConfigError, nearest
from xmodal.gradients.dual_cone import pcgrad, upgrad
from xmodal.gradients.gramian import conflicting, norm_of, present
from xmodal.gradients.min_norm import min_norm

Gramian = Float64[Tensor, "*M K K"]
Weights = Float64[Tensor, "*M K"]
Weighting = Callable[[Tensor], Tensor]

GAMMA = 1.5  # hard-coded in the published code
RESCALE = (0.1, 10.0)  # the paper has no upper limit: near exact opposition its factor grows without bound


def uniform(gramian: Gramian, *, gamma: float = 1.0) -> Weights:
    """gamma (1, ..., 1): the baseline that adds all losses; with MMPareto's gamma the control for its step size."""
    return torch.full_like(gramian[..., 0], gamma)


def min_norm_scaled(gramian: Gramian) -> Weights:
    """`min_norm` x the number of present objectives: as much weight in total as `uniform`, x2 for two objectives."""
    return min_norm(gramian) * present(gramian).sum(-1, keepdim=True)


def mmpareto(gramian: Gramian, *, gamma: float = GAMMA, rescale: tuple[float, float] = RESCALE) -> Weights:
    """MMPareto (Wei & Hu 2024, algorithm 1), rescaled over the whole encoder.

    No negative inner product: gamma (1, ..., 1). Otherwise gamma s w with w = `min_norm_scaled` and
    s = |sum g| / |sum w g|, clamped to the range `rescale` (low, high). For two objectives s >= 1.
    """
    return _rescaled(gramian, min_norm_scaled(gramian), gamma=gamma, rescale=rescale)


def mmpareto_continuous(gramian: Gramian, *, gamma: float = GAMMA, rescale: tuple[float, float] = RESCALE) -> Weights:
    """MMPareto's length with UPGrad's direction: no jump of the weights where a cosine passes zero.

    At cos = 0 and unequal norms the paper's rule jumps from the sum to weights in the inverse ratio of the squared
    norms. Here s may be below 1, because UPGrad lengthens the sum.
    """
    return _rescaled(gramian, upgrad(gramian), gamma=gamma, rescale=rescale)


def mmpareto_per_tensor(
    gramian: Float64[Tensor, "K K"], tensors: Float64[Tensor, "T K K"], *, gamma: float = GAMMA
) -> Float64[Tensor, "T K"]:
    """The rescale of the published code, for fidelity: each of T parameter tensors by a factor of its own.

    The direction is decided on the whole encoder's `gramian`; tensor t is then multiplied by gamma max(1, s_t) with
    s_t from its own Gramian in `tensors` (sum over t = `gramian`). The result may oppose an objective: the factors
    differ between tensors. GeWu-Lab/MMPareto_ICML2024 at a339db39; there cos = 0 counts as conflict, here it does not.
    """
    conflict = conflicting(gramian)
    direction = torch.where(conflict, min_norm_scaled(gramian), torch.ones_like(gramian[0])).expand_as(tensors[:, 0])
    factor = _factor(tensors, direction, 1.0, torch.inf)
    return gamma * factor.unsqueeze(-1) * direction


def stop_gradient(gramian: Gramian) -> Weights:
    """(0, 1, ..., 1): the encoders learn from their unimodal losses only (DGL, arXiv 2507.10213)."""
    weights = torch.ones_like(gramian[..., 0])
    return torch.cat([torch.zeros_like(weights[..., :1]), weights[..., 1:]], -1)


@dataclass(frozen=True)
class PerTensor:
    """Marks a weighting of (whole Gramian, Gramians of the tensors): only parameter space has tensors."""

    weights: Callable[[Tensor, Tensor], Tensor]


WEIGHTINGS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "min_norm": min_norm,
    "min_norm_scaled": min_norm_scaled,
    "mmpareto": mmpareto,
    "mmpareto_continuous": mmpareto_continuous,
    "mmpareto_per_tensor": mmpareto_per_tensor,
    "pcgrad": pcgrad,
    "upgrad": upgrad,
    "stop_gradient": stop_gradient,
}


def weighting(name: str, **options: Any) -> Weighting | PerTensor:
    """The weighting of that name with its options (`gamma`, `rescale`) set; ConfigError for what it does not take."""
    if name not in WEIGHTINGS:
        raise ConfigError(f"no weighting {name!r}; {nearest(name, WEIGHTINGS)}")
    function = WEIGHTINGS[name]
    known = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}; {nearest(option, known)}")
    _check_numbers(options.get("gamma", 1.0), options.get("rescale", RESCALE))
    chosen = functools.partial(function, **options)
    return PerTensor(chosen) if name == "mmpareto_per_tensor" else chosen


def _check_numbers(gamma: float, rescale: tuple[float, float]) -> None:
    low, high = rescale
    if not 0 < gamma < float("inf"):
        raise ConfigError(f"gamma={gamma} must be positive and finite (1.5 in the published code)")
    if not 0 <= low <= high < float("inf"):
        raise ConfigError(f"rescale={rescale} must be (low, high) with 0 <= low <= high, both finite")


def _rescaled(gramian: Gramian, direction: Weights, *, gamma: float, rescale: tuple[float, float]) -> Weights:
    """gamma x the sum without conflict; else gamma x the direction at the sum's length, the factor clamped."""
    scaled = _factor(gramian, direction, *rescale).unsqueeze(-1) * direction
    return gamma * torch.where(conflicting(gramian).unsqueeze(-1), scaled, torch.ones_like(direction))


def _factor(gramian: Gramian, direction: Weights, low: float, high: float) -> Float64[Tensor, "*M"]:
    """|sum g| / |sum w g| within [low, high]; `high` (1 if infinite) where the direction has no length left."""
    target, length = norm_of(gramian, torch.ones_like(direction)), norm_of(gramian, direction)
    stationary = 1.0 if high == torch.inf else high
    return torch.where(length == 0, stationary, target / torch.where(length == 0, 1.0, length)).clamp(low, high)
