"""Gradient weighing at the encoders' outputs, in one ordinary backward under plain DistributedDataParallel.

The splitter receives dL_k/dz of each objective k, all-reduces the few inner products, and hands sum_k w_k dL_k/dz to
the encoder, whose parameters therefore receive sum_k w_k g_k. Only the Gramian differs from that of the parameters: it
is taken at the features, which bounds it (MGDA-UB, Sener & Koltun 2018, theorem 1). It is additive over rows and ranks,
so the decision is exact for any number of ranks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.ranks import Group, world_size
from xmodal.errors import ConfigError
from xmodal.gradients.decision import Decision
from xmodal.gradients.gramian import compute_gramian
from xmodal.gradients.weightings import MMParetoPerTensor, Weighting


class FeatureSplitter:
    """Copy features for each objective; the backward weighs the objectives' gradients. `decision` records the last one.

        splitter = FeatureSplitter(MMPareto())
        multimodal, unimodal = splitter({"audio": z_a, "video": z_v})     # K = 2 dicts with the features' names
        losses = fusion(multimodal), heads(unimodal)
        sum(losses).backward()

    * Features may have any shape, tokens [B, L, D] as well as vectors [B, D].
    * Ranks: each rank's losses are shares whose mean over ranks is the global mean, as for DDP. One all-reduce of
      M K K float64 numbers per backward; give it a `group` of its own (`dist.new_group()`), otherwise the numbers wait
      behind DDP's buckets. If rows of several ranks meet in a loss, gather them *with* gradients.
    * Accumulation: every backward decides for its own micro-batch.
    * Mixed precision: products and weights are float64 whatever the dtype of the features; a common loss scale cancels,
      and a non-finite gradient reaches the encoder non-finite.
    * An extra (domain-adversarial) objective branches off the features before the splitter: it is added after the
      decision and never enters it. An absent modality has zero gradients and does not count.
    * Features of a frozen encoder are returned uncopied, without a decision.

    >>> from xmodal.gradients.weightings import MMPareto
    >>> splitter = FeatureSplitter(MMPareto())
    >>> features = {"audio": torch.ones(2, 3, requires_grad=True)}
    >>> multimodal, unimodal = splitter(features)
    >>> (multimodal["audio"].sum() - unimodal["audio"].sum()).backward()  # opposed gradients cancel
    >>> splitter.decision.weights
    tensor([[15., 15.]], dtype=torch.float64)
    """

    def __init__(self, weighting: Weighting | MMParetoPerTensor, *, objectives: int = 2, group: Group = None) -> None:
        if isinstance(weighting, MMParetoPerTensor):
            raise ConfigError("weights per parameter tensor need the gradients of parameters: use the parameter space")
        if objectives < 1:
            raise ConfigError(f"objectives={objectives} must be at least 1")
        self.weighting = weighting
        self.objectives = objectives
        self.group = group
        self.decision: Decision | None = None
        self._deciding = True

    def __call__(self, features: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        """Return K dicts with the features' names: give objective k the features of dict k."""
        split = [name for name, z in features.items() if z.requires_grad]
        if not split or not torch.is_grad_enabled():
            return tuple(dict(features) for _ in range(self.objectives))
        copies = _split(self, tuple(split), *(features[name] for name in split))
        by_objective = []
        for k in range(self.objectives):
            copied = dict(zip(split, copies[k * len(split) : (k + 1) * len(split)], strict=True))
            by_objective.append({name: copied.get(name, z) for name, z in features.items()})
        return tuple(by_objective)

    @contextmanager
    def without_decision(self) -> Iterator[None]:
        """Add the objectives' gradients up without a decision in a backward inside (for an audit, for evaluation)."""
        previous, self._deciding = self._deciding, False
        try:
            yield
        finally:
            self._deciding = previous

    def combine(self, names: tuple[str, ...], feature_gradients: list[list[Tensor]]) -> list[Tensor]:
        """Return for each encoder m the weighted sum of the gradients [m][k] = dL_k/dz_m, in the features' dtype."""
        if not self._deciding:
            return [torch.stack(gradients).sum(0) for gradients in feature_gradients]
        gramians = feature_gramians(feature_gradients, self.group)
        weights = self.weighting(gramians)
        self.decision = Decision.from_gramian(names, gramians, weights)
        return [_weighted_sum(gradients, w) for gradients, w in zip(feature_gradients, weights, strict=True)]


def feature_gramians(feature_gradients: list[list[Tensor]], group: Group) -> Float64[Tensor, "M K K"]:
    """Return inner products over the rows of all ranks, of the gradients of the mean over ranks."""
    return sum_over_ranks(torch.stack([compute_gramian(gradients) for gradients in feature_gradients]), group)


def sum_over_ranks(gramians: Float64[Tensor, "M K K"], group: Group) -> Float64[Tensor, "M K K"]:
    """Add up the inner products of all ranks, in place, for losses that are averaged over ranks."""
    world = world_size(group)
    if world > 1:
        dist.all_reduce(gramians, group=group)
        gramians /= world**2
    return gramians


def _weighted_sum(gradients: list[Tensor], weights: Float64[Tensor, "K"]) -> Tensor:
    """Return the weighted sum, computed in float32 or wider: weights in bfloat16 would be off by half a percent."""
    dtype = torch.promote_types(gradients[0].dtype, torch.float32)
    w = weights.to(dtype)
    total = gradients[0].to(dtype) * w[0]
    for gradient, x in zip(gradients[1:], w[1:], strict=True):
        total.addcmul_(gradient.to(dtype), x)
    return total.to(gradients[0].dtype)


class _Split(torch.autograd.Function):
    """Return K views of features z_1..z_M, objective by objective; the backward is `FeatureSplitter.combine`."""

    @staticmethod
    def forward(ctx: Any, splitter: FeatureSplitter, names: tuple[str, ...], *features: Tensor) -> tuple[Tensor, ...]:
        ctx.splitter, ctx.names = splitter, names
        return tuple(z.view_as(z) for _ in range(splitter.objectives) for z in features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        count = len(ctx.names)
        feature_gradients = [list(gradients[m::count]) for m in range(count)]
        return None, None, *ctx.splitter.combine(ctx.names, feature_gradients)


_split: Callable[..., tuple[Tensor, ...]] = _Split.apply
