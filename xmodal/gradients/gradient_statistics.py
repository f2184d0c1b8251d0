"""Size and spread of each objective's gradient at a fixed encoder, over many mini-batches.

What Wei & Hu 2024 (MMPareto) measure for assumption 1 and figure 1(d): whether the multimodal loss has gradients of
smaller magnitude and covariance than the unimodal one. K: objectives.  T: mini-batches.  P: parameters of an encoder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from xmodal.errors import ConfigError
from xmodal.gradients.gramian import compute_gramian, is_present, lowest_cosine

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class GradientStatistics:
    """Statistics of the gradients g_tk [P] of K objectives over T mini-batches at one encoder; float64 on the CPU.

    The spread can only be compared between mini-batches of one size: it falls as one over their rows.
    """

    norms: Float64[Tensor, "T K"]  # |g_tk|
    cosines: Float64[Tensor, "T"]  # the lowest between two present objectives; 1 where fewer than two are present
    norm_of_mean: Float64[Tensor, "K"]  # |mean over t of g_tk|
    covariance_trace: Float64[Tensor, "K"]  # sum over t of |g_tk - mean|^2 / (T - 1): of the [P, P] covariance

    @property
    def mean_norm(self) -> Float64[Tensor, "K"]:
        """Return the mean magnitude, mean over t of |g_tk|."""
        return self.norms.mean(0)

    @property
    def norm_variance(self) -> Float64[Tensor, "K"]:
        """Return the variance of the magnitudes; `covariance_trace` is that of the whole vectors."""
        return self.norms.var(0)

    @property
    def conflict_share(self) -> float:
        """Return the share of mini-batches on which two objectives have a negative cosine."""
        return (self.cosines < 0).double().mean().item()

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return plain values: a mapping for each objective (`names` has K), then what they share."""
        by_objective = {
            name: {
                "mean_norm": self.mean_norm[k].item(),
                "norm_variance": self.norm_variance[k].item(),
                "norm_of_mean": self.norm_of_mean[k].item(),
                "covariance_trace": self.covariance_trace[k].item(),
                "norms": self.norms[:, k].tolist(),
            }
            for k, name in enumerate(names)
        }
        shared = {"cosines": self.cosines.tolist()} if len(names) > 1 else {}
        return by_objective | ({"conflict_share": self.conflict_share, **shared} if shared else {})


def gradient_statistics(
    objectives: Callable[[Item], Sequence[Tensor]],
    encoders: Mapping[str, Sequence[nn.Parameter]],
    batches: Iterable[Item],
) -> dict[str, GradientStatistics]:
    """Compute statistics by encoder, given by its parameters; `objectives(batch)` returns the K losses of one forward.

    Weights, `.grad` and the mode of the module do not change. Stores K vectors of an encoder's size in float64,
    whatever the number of mini-batches (Welford 1962). ConfigError for fewer than two mini-batches.
    """
    inputs = [p for block in encoders.values() for p in block]
    moments_by_encoder: dict[str, list[_Moments]] = {}
    gramians: dict[str, list[Tensor]] = {name: [] for name in encoders}
    for batch in batches:
        losses = objectives(batch)
        rows = [_gradients(loss, inputs, keep=k < len(losses) - 1) for k, loss in enumerate(losses)]
        start = 0
        for name, block in encoders.items():
            gradients = [torch.cat([g.reshape(-1) for g in row[start : start + len(block)]]).double() for row in rows]
            start += len(block)
            gramians[name].append(compute_gramian(gradients).cpu())
            for moments, gradient in zip(
                moments_by_encoder.setdefault(name, [_Moments() for _ in gradients]), gradients, strict=True
            ):
                moments.add(gradient)
    if any(len(per_batch) < 2 for per_batch in gramians.values()):
        raise ConfigError("the spread of gradients needs at least two mini-batches: give more rows or smaller batches")
    return {name: _summary(torch.stack(gramians[name]), moments_by_encoder[name]) for name in encoders}


def _summary(gramians: Float64[Tensor, "T K K"], moments: Sequence["_Moments"]) -> GradientStatistics:
    return GradientStatistics(
        norms=gramians.diagonal(dim1=-2, dim2=-1).sqrt(),
        cosines=torch.where(is_present(gramians).sum(-1) > 1, lowest_cosine(gramians), 1.0),
        norm_of_mean=torch.stack([moment.mean.norm().cpu() for moment in moments]),
        covariance_trace=torch.stack([moment.squares.cpu() / (moment.count - 1) for moment in moments]),
    )


class _Moments:
    """The running mean of vectors and the sum of squared distances to it."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor
        self.squares: Tensor

    def add(self, vector: Float64[Tensor, "P"]) -> None:
        """Update mean and sum with one vector."""
        if not self.count:
            self.count, self.mean, self.squares = 1, vector.clone(), vector.new_zeros(())
            return
        self.count += 1
        difference = vector - self.mean
        self.mean += difference / self.count
        self.squares = self.squares + difference @ (vector - self.mean)


def _gradients(loss: Tensor, inputs: list[nn.Parameter], *, keep: bool) -> list[Tensor]:
    """Return gradients; zeros if the loss does not depend on a parameter."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in inputs]
    return list(torch.autograd.grad(loss, inputs, retain_graph=keep, allow_unused=True, materialize_grads=True))
