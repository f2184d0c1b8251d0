"""Losses on target rows without labels or pairs: consistency of two views, and InfoNCE on pseudo-pairs."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.losses.contrastive import info_nce
from xmodal.losses.pseudo_pairs import pseudo_pair_loss

TEMPERATURE = 0.1  # of the consistency loss; fixed (Chen et al. 2020, table 5)


@dataclass(frozen=True, kw_only=True)
class UnlabelledLosses:
    """The weights of the losses on unlabelled target rows; 0 leaves a loss out.

    `threshold` is the smallest cosine similarity of a pseudo-pair.
    """

    consistency: float = 0.0
    pseudo_pairs: float = 0.0
    threshold: float = 0.5

    def consistency_loss(
        self,
        first_view: Float[Tensor, "T D"],
        second_view: Float[Tensor, "T D"],
        valid: Bool[Tensor, "T"],
    ) -> Float[Tensor, ""]:
        """Compute InfoNCE between two views of each row (SimCLR, Chen et al. 2020), with both views as anchors."""
        log_scale = torch.tensor(math.log(1 / TEMPERATURE), dtype=first_view.dtype, device=first_view.device)
        return info_nce(first_view, second_view, log_scale, valid=valid)

    def pseudo_pair_loss(
        self,
        rows: Float[Tensor, "T D"],
        texts: Float[Tensor, "C D"],
        scale: Float[Tensor, ""],
        valid: Bool[Tensor, "T"],
        valid_texts: Bool[Tensor, "C"],
    ) -> Float[Tensor, ""]:
        """Compute InfoNCE on pairs of rows and texts that are mutual nearest neighbours, with a constant `scale`."""
        return pseudo_pair_loss(rows, texts, scale.detach().exp(), valid, valid_texts, threshold=self.threshold)
