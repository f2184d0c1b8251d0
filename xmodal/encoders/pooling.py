"""Pooling of the output of any transformers backbone into one feature vector per row."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Pooling = Literal["pooler", "cls", "mean"]


def pool(output: Any, pooling: Pooling, mask: Tensor | None = None) -> Float[Tensor, "B W"]:
    """Return one vector per row.

    `pooler`: the backbone's own pooled output, also [B, W, 1, 1] as of ResNet; `cls`: the first token; `mean`: over all
    positions [B, W, h, w], or over all tokens [B, L, W] that `mask` [B, L] attends to.
    """
    if pooling == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled.flatten(1)
    hidden: Tensor = output.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    return hidden.flatten(2).mean(2) if hidden.ndim == 4 else mean_over_mask(hidden, mask)


def mean_over_mask(hidden: Float[Tensor, "B L W"], mask: Tensor | None) -> Float[Tensor, "B W"]:
    """Return the mean of the tokens [L] that `mask` [B, L] attends to, all of them without a mask."""
    if mask is None:
        return hidden.mean(1)
    weight = mask.to(hidden.dtype)[:, :, None]
    return torch.sum(hidden * weight, 1) / weight.sum(1)
