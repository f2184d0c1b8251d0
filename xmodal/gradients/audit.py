"""Comparison of both gradient spaces on one step: what each would decide, without applying anything.

Call it every so many steps, before the step's own backward, on all ranks. It costs one backward per objective and
leaves `.grad` as it is.
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
from xmodal.gradients.feature_space import FeatureSplitter, sum_over_ranks
from xmodal.gradients.gramian import combined_norm, compute_gramian, has_conflict, lowest_cosine
from xmodal.gradients.parameter_space import reduce_gramians
from xmodal.gradients.partition import Partition
from xmodal.gradients.weightings import MMParetoPerTensor, Weighting


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """Gramians and weights of M encoders in both spaces, and how far they agree; equal on all ranks, on the device.

    `parameter_gramians` and `feature_gramians` are the Gramians of the K objectives' gradients at an encoder's
    parameters and at its output.
    """

    encoders: tuple[str, ...]
    parameter_gramians: Float64[Tensor, "M K K"]
    feature_gramians: Float64[Tensor, "M K K"]
    parameter_weights: Float64[Tensor, "M K"]
    feature_weights: Float64[Tensor, "M K"]

    @property
    def same_sign(self) -> Bool[Tensor, "M"]:
        """Return whether both spaces see a conflict, or both see none."""
        return has_conflict(self.parameter_gramians) == has_conflict(self.feature_gramians)

    @property
    def weight_gap(self) -> Float64[Tensor, "M"]:
        """Return the largest difference between weights, relative to the largest weight in parameter space."""
        gap = (self.parameter_weights - self.feature_weights).abs().amax(-1)
        return gap / self.parameter_weights.abs().amax(-1).clamp(min=torch.finfo(torch.float64).tiny)

    @property
    def angle_degrees(self) -> Float64[Tensor, "M"]:
        """Return the angle between the two updates of an encoder's *parameters*, one by each set of weights.

        An update is sum w_k g_k. This angle is what training differs by, since weights at the features pass linearly to
        the parameters. It is 0 if one of the updates has no length.
        """
        w, v, g = self.parameter_weights, self.feature_weights, self.parameter_gramians
        first, second = (x / _or_one(combined_norm(g, x)).unsqueeze(-1) for x in (w, v))
        half_chord = (
            combined_norm(g, first - second).clamp(max=2) / 2
        )  # |u - v| = 2 sin(angle / 2): exact for small angles
        both_nonzero = (combined_norm(g, w) > 0) & (combined_norm(g, v) > 0)
        return torch.where(both_nonzero, 2 * torch.rad2deg(torch.asin(half_chord)), 0.0)

    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return scalars named audit/ENCODER/METRIC.

        The metrics are same_sign (0 or 1), weight_gap, angle_degrees, and the lowest cosine in either space.
        """
        values = {
            "same_sign": self.same_sign.double(),
            "weight_gap": self.weight_gap,
            "angle_degrees": self.angle_degrees,
            "parameter_cosine": lowest_cosine(self.parameter_gramians),
            "feature_cosine": lowest_cosine(self.feature_gramians),
        }
        return {f"audit/{name}/{metric}": x[i] for i, name in enumerate(self.encoders) for metric, x in values.items()}


class Auditor:
    """The audit of a batch in one or more pieces: `add` each of them, then take the `result` of the whole batch, once.

    It compares the encoders of `partition` whose output is among the features that are added. `splitter` is the model's
    own, None if it has none. ConfigError for a weighting per parameter tensor. Both spaces decide for the whole batch.
    Gramians at the features add up over pieces, and so do the gradients of the parameters, of which it stores K.
    """

    def __init__(
        self,
        partition: Partition,
        weighting: Weighting | MMParetoPerTensor,
        *,
        splitter: FeatureSplitter | None = None,
        group: Group = None,
    ) -> None:
        if isinstance(weighting, MMParetoPerTensor):
            raise ConfigError("an audit compares the weights of whole encoders, not of parameter tensors")
        self.partition, self.weighting, self.group = partition, weighting, group
        self.splitter = splitter or FeatureSplitter(weighting)
        self._names: tuple[str, ...] = ()
        self._at_features: Float64[Tensor, "M K K"] | None = None
        self._flat: list[Tensor] = []

    def add(self, losses: Sequence[Tensor], features: Mapping[str, Tensor]) -> None:
        """Differentiate K losses (shares) of one piece at the parameters and at `features`, and keep the graph.

        `features` are the encoders' outputs, by encoder, as they enter the splitter.
        """
        names = tuple(name for name in self.partition.encoders if name in features and features[name].requires_grad)
        if not names:
            raise ConfigError("an audit compares encoders that have both features and trainable parameters")
        blocks = [self.partition.encoders[name] for name in names]
        inputs: list[Tensor] = [features[name] for name in names] + [p for block in blocks for p in block]
        with self.splitter.without_decision():
            gradients = [_differentiate(loss, inputs) for loss in losses]
        piece_gramians = torch.stack(
            [compute_gramian([of_loss[m] for of_loss in gradients]) for m in range(len(names))]
        )
        flat = [torch.cat([g.reshape(-1) for g in of_loss[len(names) :]]) for of_loss in gradients]
        if self._at_features is None:
            self._names, self._at_features, self._flat = names, piece_gramians, flat
            return
        self._at_features += piece_gramians
        for total, piece in zip(self._flat, flat, strict=True):
            total += piece

    def result(self) -> AuditResult:
        """Return what both spaces would decide for all pieces of all ranks, and reset for the next batch."""
        if self._at_features is None:
            raise ConfigError("nothing to audit: add the losses of a batch before")
        feature_gramians, flat = sum_over_ranks(self._at_features, self.group), self._flat
        self._at_features, self._flat = None, []
        blocks = [self.partition.encoders[name] for name in self._names]
        parameter_gramians = _parameter_gramians(flat, blocks, self.group)
        return AuditResult(
            encoders=self._names,
            parameter_gramians=parameter_gramians,
            feature_gramians=feature_gramians,
            parameter_weights=self.weighting(parameter_gramians),
            feature_weights=self.weighting(feature_gramians),
        )


def _differentiate(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return gradients without changing `.grad` or triggering DDP's hooks; zeros for inputs that are not used."""
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def _parameter_gramians(rows: list[Tensor], blocks: list[list[nn.Parameter]], group: Group) -> Float64[Tensor, "M K K"]:
    if world_size(group) > 1:
        for row in rows:
            dist.all_reduce(row.div_(world_size(group)), group=group)
    ends = list(accumulate((sum(p.numel() for p in block) for block in blocks), initial=0))
    return reduce_gramians(rows, [slice(a, b) for a, b in pairwise(ends)], group)


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, x)
