"""The record of how the gradients of one step were weighed, with the metrics that a log shows of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xmodal.gradients.gramian import alignment, combined_norm, has_conflict, is_present, lowest_cosine, squared_norms


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Gramians of the global batch's gradients, and the weights given to them; equal on all ranks, on the device.

    M encoders, K objectives, h = sum_i w_i g_i. Norms are in the units of the losses that were differentiated (of the
    scaled ones under a gradient scaler). `norm` is |h|, `alignment` holds <h, g_i>: negative if the step opposes
    objective i. With weights for each parameter tensor, `weights` are their means over the encoder's elements.
    """

    encoders: tuple[str, ...]
    gramian: Float64[Tensor, "M K K"]
    weights: Float64[Tensor, "M K"]
    norm: Float64[Tensor, "M"]
    alignment: Float64[Tensor, "M K"]

    @classmethod
    def from_gramian(cls, encoders: tuple[str, ...], gramian: Float64[Tensor, "M K K"], weights: Tensor) -> "Decision":
        """Build the decision for one combination of whole gradients per encoder."""
        norm, products = combined_norm(gramian, weights), alignment(gramian, weights)
        return cls(encoders=encoders, gramian=gramian, weights=weights, norm=norm, alignment=products)

    def metrics(self) -> dict[str, Float[Tensor, ""]]:
        """Return scalars named ENCODER/METRIC, to be read by the host together with the step's other metrics.

        `cosine` is the smallest between two present objectives (beta between the multimodal and the unimodal one; 1 if
        fewer than two are present), `norm_0` ... are those of the gradients, `conflict` is 0 or 1, `weight_0` ... the
        weights, `length` is |h| / |sum g| (0 if the sum has no length): MMPareto's gamma, inside its rescale range.
        `rescale` is its factor s before any limit: |sum g| / |sum w g| for the weights scaled to the sum of equal ones,
        1 for equal weights (and if either has no length).
        """
        lowest, conflict = lowest_cosine(self.gramian), has_conflict(self.gramian).double()
        norms = squared_norms(self.gramian).sqrt()
        total = combined_norm(self.gramian, torch.ones_like(self.weights))
        length = torch.where(total == 0, 0.0, self.norm / torch.where(total == 0, 1.0, total))
        gain = (self.weights * is_present(self.gramian)).sum(-1) / is_present(self.gramian).sum(-1).clamp(min=1)
        rescale = torch.where((length == 0) | (gain == 0), 1.0, gain / torch.where(length == 0, 1.0, length))
        metrics: dict[str, Tensor] = {}
        for i, encoder in enumerate(self.encoders):
            metrics |= {
                f"{encoder}/cosine": lowest[i],
                f"{encoder}/conflict": conflict[i],
                f"{encoder}/length": length[i],
                f"{encoder}/rescale": rescale[i],
            }
            metrics |= {f"{encoder}/norm_{k}": x for k, x in enumerate(norms[i])}
            metrics |= {f"{encoder}/weight_{k}": x for k, x in enumerate(self.weights[i])}
        return metrics
