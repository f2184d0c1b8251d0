"""A fixed encoder and many mini-batches in, size and spread of each objective's gradient at that encoder out.

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
from xmodal.gradients.gramian import gramian_of, lowest_cosine, present

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class GradientStatistics:
    """Of the gradients g_tk [P] of K objectives over T mini-batches at one encoder; float64 on the CPU.

    Mini-batches must be of one size for the spread to mean something: it falls as one over their rows.
    """

    norms: Float64[Tensor, "T K"]  # |g_tk|
    cosines: Float64[Tensor, "T"]  # the lowest between two present objectives; 1 where fewer than two are present
    norm_of_mean: Float64[Tensor, "K"]  # |mean over t of g_tk|
    covariance_trace: Float64[Tensor, "K"]  # sum over t of |g_tk - mean|^2 / (T - 1): of the [P, P] covariance

    @property
    def mean_norm(self) -> Float64[Tensor, "K"]:
        """The mean magnitude, mean over t of |g_tk|."""
        return self.norms.mean(0)

    @property
    def norm_variance(self) -> Float64[Tensor, "K"]:
        """The variance of the magnitudes, a number; the trace above is that of the whole vectors."""
        return self.norms.var(0)

    @property
    def conflict_share(self) -> float:
        """The share of mini-batches on which two objectives point apart."""
        return (self.cosines < 0).double().mean().item()

    def as_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values: a mapping for each objective (`names` has K), then what they share."""
        each = {
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
        return each | ({"conflict_share": self.conflict_share, **shared} if shared else {})


def gradient_statistics(
    objectives: Callable[[Item], Sequence[Tensor]],
    encoders: Mapping[str, Sequence[nn.Parameter]],
    batches: Iterable[Item],
) -> dict[str, GradientStatistics]:
    """Statistics by encoder; `objectives(batch)` gives the K losses of one forward, `encoders` their parameters.

    Weights, `.grad` and the module's mode stay as they are. Keeps K vectors of an encoder's size in float64, whatever
    the number of mini-batches (Welford 1962). ConfigError for fewer than two mini-batches.
    """
    inputs = [p for block in encoders.values() for p in block]
    seen: dict[str, list[_Moments]] = {}
    grams: dict[str, list[Tensor]] = {name: [] for name in encoders}
    for batch in batches:
        losses = objectives(batch)
        rows = [_gradients(loss, inputs, keep=k < len(losses) - 1) for k, loss in enumerate(losses)]
        start = 0
        for name, block in encoders.items():
            own = [torch.cat([g.reshape(-1) for g in row[start : start + len(block)]]).double() for row in rows]
            start += len(block)
            grams[name].append(gramian_of(own).cpu())
            for moments, gradient in zip(seen.setdefault(name, [_Moments() for _ in own]), own, strict=True):
                moments.add(gradient)
    if any(len(found) < 2 for found in grams.values()):
        raise ConfigError("the spread of gradients needs at least two mini-batches: give more rows or smaller batches")
    return {name: _summary(torch.stack(grams[name]), seen[name]) for name in encoders}


def _summary(gramians: Float64[Tensor, "T K K"], moments: Sequence["_Moments"]) -> GradientStatistics:
    return GradientStatistics(
        norms=gramians.diagonal(dim1=-2, dim2=-1).sqrt(),
        cosines=torch.where(present(gramians).sum(-1) > 1, lowest_cosine(gramians), 1.0),
        norm_of_mean=torch.stack([one.mean.norm().cpu() for one in moments]),
        covariance_trace=torch.stack([one.squares.cpu() / (one.count - 1) for one in moments]),
    )


class _Moments:
    """Mean of vectors and the sum of squared distances to it, one vector at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor
        self.squares: Tensor

    def add(self, vector: Float64[Tensor, "P"]) -> None:
        if not self.count:
            self.count, self.mean, self.squares = 1, vector.clone(), vector.new_zeros(())
            return
        self.count += 1
        before = vector - self.mean
        self.mean += before / self.count
        self.squares = self.squares + before @ (vector - self.mean)


def _gradients(loss: Tensor, inputs: list[nn.Parameter], *, keep: bool) -> list[Tensor]:
    """Zeros where the loss does not reach."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in inputs]
    return list(torch.autograd.grad(loss, inputs, retain_graph=keep, allow_unused=True, materialize_grads=True))
