"""What was decided for every encoder in one step: Gramians and weights in, figures for the log out."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xmodal.gradients.gramian import alignment, conflicting, lowest_cosine, norm_of, present, squares


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Gramians of the global batch's gradients, and the weights given to them; alike on all ranks, on the device.

    Norms are in the units of the losses that were differentiated (of the scaled ones under a gradient scaler).
    `norm` is |h|, `alignment` holds <h, g_i>: negative where the step opposes objective i. With weights for each
    parameter tensor, `weights` are their means over the encoder's elements.
    """

    encoders: tuple[str, ...]
    gramian: Float64[Tensor, "M K K"]
    weights: Float64[Tensor, "M K"]
    norm: Float64[Tensor, "M"]
    alignment: Float64[Tensor, "M K"]

    @classmethod
    def of(cls, encoders: tuple[str, ...], gramian: Float64[Tensor, "M K K"], weights: Tensor) -> "Decision":
        """The decision for one combination of whole gradients per encoder."""
        norm, aligned = norm_of(gramian, weights), alignment(gramian, weights)
        return cls(encoders=encoders, gramian=gramian, weights=weights, norm=norm, alignment=aligned)

    def figures(self) -> dict[str, Float[Tensor, ""]]:
        """Scalars named ENCODER/WHAT, to be read by the host together with the step's other figures.

        `cosine` is the smallest between two present objectives (beta between the multimodal and the unimodal one; 1
        when fewer than two are present), `norm_0` ... of the gradients, `conflict` 0 or 1, `weight_0` ...,
        `length`, |h| / |sum g| (0 where the sum has no length): MMPareto's gamma, inside its rescale range; and
        `rescale`, its factor s before any limit: |sum g| / |sum w g| for the weights brought to the sum that equal
        ones have, 1 for equal weights (and where either has no length).
        """
        lowest, conflict = lowest_cosine(self.gramian), conflicting(self.gramian).double()
        lengths = squares(self.gramian).sqrt()
        total = norm_of(self.gramian, torch.ones_like(self.weights))
        length = torch.where(total == 0, 0.0, self.norm / torch.where(total == 0, 1.0, total))
        gain = (self.weights * present(self.gramian)).sum(-1) / present(self.gramian).sum(-1).clamp(min=1)
        rescale = torch.where((length == 0) | (gain == 0), 1.0, gain / torch.where(length == 0, 1.0, length))
        found: dict[str, Tensor] = {}
        for i, encoder in enumerate(self.encoders):
            found |= {
                f"{encoder}/cosine": lowest[i],
                f"{encoder}/conflict": conflict[i],
                f"{encoder}/length": length[i],
                f"{encoder}/rescale": rescale[i],
            }
            found |= {f"{encoder}/norm_{k}": x for k, x in enumerate(lengths[i])}
            found |= {f"{encoder}/weight_{k}": x for k, x in enumerate(self.weights[i])}
        return found
