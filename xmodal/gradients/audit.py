"""Losses and features of one forward in, what the two spaces would decide out; nothing is applied, no `.grad` moves.

Call it every so many steps, before the step's own backward, on all ranks. It costs one backward per objective.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from xmodal.distributed.ranks import Group, world_size
from xmodal.errors import ConfigError
from xmodal.gradients.feature_space import FeatureSplitter, over_ranks
from xmodal.gradients.gramian import conflicting, gramian_of, lowest_cosine, norm_of
from xmodal.gradients.parameter_space import reduced_gramians
from xmodal.gradients.partition import Partition
from xmodal.gradients.weightings import PerTensor, Weighting


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """For M encoders: Gramians and weights in both spaces, and what they share. Alike on all ranks, on the device."""

    encoders: tuple[str, ...]
    at_parameters: Float64[Tensor, "M K K"]
    at_features: Float64[Tensor, "M K K"]
    parameter_weights: Float64[Tensor, "M K"]
    feature_weights: Float64[Tensor, "M K"]

    @property
    def same_sign(self) -> Bool[Tensor, "M"]:
        """Whether both see a conflict, or both see none."""
        return conflicting(self.at_parameters) == conflicting(self.at_features)

    @property
    def weight_gap(self) -> Float64[Tensor, "M"]:
        """The largest difference between weights, relative to the largest weight in parameter space."""
        gap = (self.parameter_weights - self.feature_weights).abs().amax(-1)
        return gap / self.parameter_weights.abs().amax(-1).clamp(min=torch.finfo(torch.float64).tiny)

    @property
    def angle_degrees(self) -> Float64[Tensor, "M"]:
        """Between the two updates of an encoder's *parameters*, sum w_k g_k with one set of weights and the other.

        That is what training differs by, since weights given to features pass linearly to the parameters. 0 where
        one of the two has no length.
        """
        w, v, g = self.parameter_weights, self.feature_weights, self.at_parameters
        first, second = (x / _or_one(norm_of(g, x)).unsqueeze(-1) for x in (w, v))
        half = norm_of(g, first - second).clamp(max=2) / 2  # |u - v| = 2 sin(angle / 2): exact for small angles
        both = (norm_of(g, w) > 0) & (norm_of(g, v) > 0)
        return torch.where(both, 2 * torch.rad2deg(torch.asin(half)), 0.0)

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Scalars named audit/ENCODER/WHAT: same_sign (0 or 1), weight_gap, angle_degrees, and the
        lowest cosine in either space."""
        columns = {
            "same_sign": self.same_sign.double(),
            "weight_gap": self.weight_gap,
            "angle_degrees": self.angle_degrees,
            "parameter_cosine": lowest_cosine(self.at_parameters),
            "feature_cosine": lowest_cosine(self.at_features),
        }
        return {f"audit/{name}/{what}": x[i] for i, name in enumerate(self.encoders) for what, x in columns.items()}


def audit(
    losses: Sequence[Tensor],
    features: Mapping[str, Tensor],
    partition: Partition,
    weighting: Weighting,
    *,
    splitter: FeatureSplitter | None = None,
    group: Group = None,
) -> Agreement:
    """Both spaces' Gramians and weights for K losses (shares) and the encoders' outputs `features`, by encoder.

    `features` are the encoders' outputs as they enter the splitter (`splitter` None: the model has none). The graph
    is kept for the step. Only encoders that are in both `features` and `partition` are compared; ConfigError when
    none is, or for a weighting per parameter tensor.
    """
    auditor = Auditor(partition, weighting, splitter=splitter, group=group)
    auditor.add(losses, features)
    return auditor.agreement()


class Auditor:
    """The same for a batch in several pieces: `add` each, then ask for the `agreement` on all of them, once.

    Both spaces then decide for the whole batch. Gramians at the features are additive over pieces, and so are the
    gradients of the parameters, of which it keeps K.
    """

    def __init__(
        self,
        partition: Partition,
        weighting: Weighting | PerTensor,
        *,
        splitter: FeatureSplitter | None = None,
        group: Group = None,
    ) -> None:
        if isinstance(weighting, PerTensor):
            raise ConfigError("an audit compares the weights of whole encoders, not of parameter tensors")
        self.partition, self.weighting, self.group = partition, weighting, group
        self.splitter = splitter or FeatureSplitter(weighting)
        self._names: tuple[str, ...] = ()
        self._at_features: Float64[Tensor, "M K K"] | None = None
        self._flat: list[Tensor] = []

    def add(self, losses: Sequence[Tensor], features: Mapping[str, Tensor]) -> None:
        """Differentiate K losses (shares) of one piece at its `features` and at the parameters."""
        names = tuple(name for name in self.partition.encoders if name in features and features[name].requires_grad)
        if not names:
            raise ConfigError("an audit compares encoders that have both features and trainable parameters")
        blocks = [self.partition.encoders[name] for name in names]
        inputs: list[Tensor] = [features[name] for name in names] + [p for block in blocks for p in block]
        with self.splitter.plain():
            found = [_differentiate(loss, inputs) for loss in losses]
        here = torch.stack([gramian_of([row[m] for row in found]) for m in range(len(names))])
        flat = [torch.cat([g.reshape(-1) for g in row[len(names) :]]) for row in found]
        if self._at_features is None:
            self._names, self._at_features, self._flat = names, here, flat
            return
        self._at_features += here
        for total, more in zip(self._flat, flat, strict=True):
            total += more

    def agreement(self) -> Agreement:
        """What both spaces would decide for all pieces of all ranks; afterwards the next batch may begin."""
        if self._at_features is None:
            raise ConfigError("nothing to audit: add the losses of a batch before")
        at_features, flat = over_ranks(self._at_features, self.group), self._flat
        self._at_features, self._flat = None, []
        blocks = [self.partition.encoders[name] for name in self._names]
        at_parameters = _parameter_gramians(flat, blocks, self.group)
        return Agreement(
            encoders=self._names,
            at_parameters=at_parameters,
            at_features=at_features,
            parameter_weights=self.weighting(at_parameters),
            feature_weights=self.weighting(at_features),
        )


def _differentiate(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients without touching `.grad` or waking DDP's hooks; zeros where the loss does not reach."""
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def _parameter_gramians(rows: list[Tensor], blocks: list[list[nn.Parameter]], group: Group) -> Float64[Tensor, "M K K"]:
    if world_size(group) > 1:
        for row in rows:
            dist.all_reduce(row.div_(world_size(group)), group=group)
    ends = list(accumulate((sum(p.numel() for p in block) for block in blocks), initial=0))
    return reduced_gramians(rows, [slice(a, b) for a, b in pairwise(ends)], group)


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, x)
