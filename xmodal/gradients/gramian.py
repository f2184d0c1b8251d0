"""Gradients of K objectives in, their Gramian out: all inner products, in float64, on the device.

G[i, j] = <g_i, g_j>. Every weighting is a function of G alone, and everything that is asked of a combination
h = sum_i w_i g_i is too: |h|^2 = w G w, <h, g_i> = (G w)_i. An objective whose gradient is zero (a frozen or absent
modality) has a zero row; it is called absent, and takes part in no decision. Leading dimensions are a batch (encoders).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

CHUNK = {
    "cpu": 2**16,
    "other": 2**24,
}  # elements widened to float64 at a time: a cache on a CPU, few launches elsewhere


def gramian_of(gradients: Sequence[Tensor]) -> Float64[Tensor, "K K"]:
    """The Gramian of K tensors with equally many elements and one dtype; accumulated in float64, chunk by chunk."""
    rows = [g.detach().reshape(-1) for g in gradients]
    size = rows[0].numel()
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    step = min(size, CHUNK.get(rows[0].device.type, CHUNK["other"]))
    wide = total.new_empty(len(rows), step)  # one for all chunks: fresh pages cost more than the products
    for start in range(0, size, max(step, 1)):
        part = wide[:, : min(step, size - start)]
        for own, row in zip(part, rows, strict=True):
            own.copy_(row[start : start + step])
        total.addmm_(part, part.T)
    return total


def squares(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K"]:
    """The squared norms, G[i, i]."""
    return gramian.diagonal(dim1=-2, dim2=-1)


def present(gramian: Float64[Tensor, "*M K K"]) -> Bool[Tensor, "*M K"]:
    """Objectives whose gradient is not zero (a NaN counts as present, so that it stays visible)."""
    return squares(gramian) != 0


def cosines(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K K"]:
    """cos of the angles between gradients; 0 where one of the two is absent."""
    norms = squares(gramian).sqrt()
    product = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    return torch.where(product == 0, 0.0, gramian / torch.where(product == 0, 1.0, product))


def lowest_cosine(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M"]:
    """The smallest cosine between two present objectives; 1 when there are fewer than two."""
    here = present(gramian)
    pairs = here.unsqueeze(-1) & here.unsqueeze(-2)
    pairs = pairs & ~torch.eye(gramian.shape[-1], dtype=torch.bool, device=gramian.device)
    return torch.where(pairs, cosines(gramian), 1.0).flatten(-2).amin(-1)


def conflicting(gramian: Float64[Tensor, "*M K K"]) -> Bool[Tensor, "*M"]:
    """Whether any two objectives have a negative inner product; an absent one conflicts with none."""
    return (gramian < 0).flatten(-2).any(-1)


def norm_of(gramian: Float64[Tensor, "*M K K"], weights: Float[Tensor, "*M K"]) -> Float64[Tensor, "*M"]:
    """|sum_i w_i g_i|; rounding below zero reads as zero."""
    w = weights.double()
    return (alignment(gramian, w) * w).sum(-1).clamp(min=0).sqrt()


def alignment(gramian: Float64[Tensor, "*M K K"], weights: Float[Tensor, "*M K"]) -> Float64[Tensor, "*M K"]:
    """<h, g_i> for h = sum_j w_j g_j: positive where a step along -h lowers objective i to first order."""
    return (gramian @ weights.double().unsqueeze(-1)).squeeze(-1)
