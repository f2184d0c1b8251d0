"""Rows of the target, without labels or pairs, in; losses of two views of them, and of guessed pairs, out."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.contrastive import info_nce
from xmodal.losses.pseudo_pairs import pseudo_pairs

TEMPERATURE = 0.1  # of the two views: fixed (Chen et al. 2020, table 5)


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Weights of what the target's rows teach; 0 leaves it out. `threshold` is the least cosine of a guess."""

    consistency: float = 0.0
    pseudo_pairs: float = 0.0
    threshold: float = 0.5

    def two_views(
        self, plain: Float[Tensor, "T D"], again: Float[Tensor, "T D"], valid: Bool[Tensor, "T"], group: Group
    ) -> Float[Tensor, ""]:
        """Each row's other view among all other rows' (SimCLR, Chen et al. 2020, with both views' rows as anchors)."""
        log_scale = torch.tensor(math.log(1 / TEMPERATURE), dtype=plain.dtype, device=plain.device)
        return info_nce(plain, again, log_scale, valid=valid, group=group)

    def guessed_pairs(
        self,
        plain: Float[Tensor, "T D"],
        texts: Float[Tensor, "C D"],
        scale: Float[Tensor, ""],
        valid: Bool[Tensor, "T"],
        valid_texts: Bool[Tensor, "C"],
        group: Group,
    ) -> Float[Tensor, ""]:
        """InfoNCE among rows and texts that are each other's nearest, at the model's own scale as a constant."""
        return pseudo_pairs(
            plain, texts, scale.detach().exp(), valid, valid_texts, threshold=self.threshold, group=group
        )
