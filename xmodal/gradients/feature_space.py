"""Encoders' outputs in, a copy of them for each objective out; the backward weighs the objectives' gradients there.

One ordinary backward pass under plain DistributedDataParallel: the splitter receives dL_k/dz of each objective k,
all-reduces the few inner products, and hands sum_k w_k dL_k/dz to the encoder, whose parameters therefore receive
sum_k w_k g_k. Only the Gramian differs from that of the parameters: it is taken at the features, which bounds it
(MGDA-UB, Sener & Koltun 2018, theorem 1). Over rows and ranks it is additive, so the decision is exact for any number
of ranks.
"""

from collections.abc import Iterator, Mapping
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
from xmodal.gradients.gramian import gramian_of
from xmodal.gradients.weightings import PerTensor, Weighting


class FeatureSplitter:
    """Splits features between objectives; afterwards `decision` tells what the last backward decided.

        multimodal, unimodal = splitter({"audio": z_a, "video": z_v})     # K = 2 dicts with the features' names
        losses = fusion(multimodal), heads(unimodal)
        sum(losses).backward()

    * Features may have any shape, tokens [B, L, D] as well as vectors [B, D].
    * Ranks: each rank's losses are shares whose mean over ranks is the global mean, as for DDP. One all-reduce of
      M K K float64 numbers per backward; give it a `group` of its own (`dist.new_group()`), else the numbers queue
      behind DDP's buckets. Features must depend on losses as a whole: gather *with* gradient where rows meet.
    * Accumulation: every backward decides for its own micro-batch.
    * Mixed precision: products and weights are float64 whatever the features are; a common loss scale cancels, and
      a non-finite gradient reaches the encoder non-finite.
    * An extra (domain-adversarial) objective branches off the features before the splitter: it is added after the
      decision and never enters it. An absent modality has zero gradients and does not count.
    * A frozen encoder's features pass through unsplit, without a decision.
    """

    def __init__(self, weighting: Weighting | PerTensor, *, objectives: int = 2, group: Group = None) -> None:
        if isinstance(weighting, PerTensor):
            raise ConfigError("weights per parameter tensor need the gradients of parameters: use the parameter space")
        if objectives < 1:
            raise ConfigError(f"objectives={objectives} must be at least 1")
        self.weighting = weighting
        self.objectives = objectives
        self.group = group
        self.decision: Decision | None = None
        self._plain = False

    def __call__(self, features: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        """K dicts with the features' names: give objective k the features of dict k."""
        split = [name for name, z in features.items() if z.requires_grad]
        if not split or not torch.is_grad_enabled():
            return tuple(dict(features) for _ in range(self.objectives))
        copies = _Split.apply(self, tuple(split), *(features[name] for name in split))
        found = []
        for k in range(self.objectives):
            own = dict(zip(split, copies[k * len(split) : (k + 1) * len(split)], strict=True))
            found.append({name: own.get(name, z) for name, z in features.items()})
        return tuple(found)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Inside, a backward adds the objectives' gradients up without a decision (for an audit, for evaluation)."""
        before, self._plain = self._plain, True
        try:
            yield
        finally:
            self._plain = before

    def weigh(self, names: tuple[str, ...], cotangents: list[list[Tensor]]) -> list[Tensor]:
        """cotangents[m][k] = dL_k/dz_m; for each encoder m their weighted sum, in the features' dtype."""
        if self._plain:
            return [torch.stack(deltas).sum(0) for deltas in cotangents]
        gramians = feature_gramians(cotangents, self.group)
        weights = self.weighting(gramians)
        self.decision = Decision.of(names, gramians, weights)
        return [_combine(deltas, w) for deltas, w in zip(cotangents, weights, strict=True)]


def feature_gramians(cotangents: list[list[Tensor]], group: Group) -> Float64[Tensor, "M K K"]:
    """Inner products over the rows of all ranks, of the gradients of the mean over ranks."""
    return over_ranks(torch.stack([gramian_of(deltas) for deltas in cotangents]), group)


def over_ranks(gramians: Float64[Tensor, "M K K"], group: Group) -> Float64[Tensor, "M K K"]:
    """This rank's inner products added to those of the others, in place."""
    world = world_size(group)
    if world > 1:
        dist.all_reduce(gramians, group=group)
        gramians /= world**2
    return gramians


def _combine(deltas: list[Tensor], weights: Float64[Tensor, "K"]) -> Tensor:
    """The sum in float32 at least: weights in bfloat16 would be off by half a percent."""
    wide = torch.promote_types(deltas[0].dtype, torch.float32)
    w = weights.to(wide)
    total = deltas[0].to(wide) * w[0]
    for delta, x in zip(deltas[1:], w[1:], strict=True):
        total.addcmul_(delta.to(wide), x)
    return total.to(deltas[0].dtype)


class _Split(torch.autograd.Function):
    """Features z_1..z_M in; K views of each out, objective by objective; the backward is `FeatureSplitter.weigh`."""

    @staticmethod
    def forward(ctx: Any, splitter: FeatureSplitter, names: tuple[str, ...], *features: Tensor) -> tuple[Tensor, ...]:
        ctx.splitter, ctx.names = splitter, names
        return tuple(z.view_as(z) for _ in range(splitter.objectives) for z in features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        count = len(ctx.names)
        cotangents = [list(gradients[m::count]) for m in range(count)]
        return None, None, *ctx.splitter.weigh(ctx.names, cotangents)
