"""The Gramian of the gradients of K objectives: all their inner products, in float64, on the device.

G[i, j] = <g_i, g_j>. Every weighting is a function of G alone, and so is every property of a combination
h = sum_i w_i g_i: |h|^2 = w G w, <h, g_i> = (G w)_i. An objective whose gradient is zero (a frozen or absent modality)
has a zero row; it is called absent and takes part in no decision. Leading dimensions are a batch (encoders).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

# elements converted to float64 at a time: they fit a CPU's cache; elsewhere large chunks need few kernel launches
CHUNK_ELEMENTS = {"cpu": 2**16, "other": 2**24}


def compute_gramian(gradients: Sequence[Tensor]) -> Float64[Tensor, "K K"]:
    """Compute the Gramian of K tensors with equally many elements and one dtype, in float64, chunk by chunk.

    >>> compute_gramian([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 2.0])])
    tensor([[ 1., -1.],
            [-1.,  5.]], dtype=torch.float64)
    """
    rows = [g.detach().reshape(-1) for g in gradients]
    size = rows[0].numel()
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows[0].device)
    step = min(size, CHUNK_ELEMENTS.get(rows[0].device.type, CHUNK_ELEMENTS["other"]))
    wide = total.new_empty(len(rows), step)  # one for all chunks: fresh pages cost more than the products
    for start in range(0, size, max(step, 1)):
        part = wide[:, : min(step, size - start)]
        for target, row in zip(part, rows, strict=True):
            target.copy_(row[start : start + step])
        total.addmm_(part, part.T)
    return total


def squared_norms(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K"]:
    """Return the squared norms, G[i, i]."""
    return gramian.diagonal(dim1=-2, dim2=-1)


def is_present(gramian: Float64[Tensor, "*M K K"]) -> Bool[Tensor, "*M K"]:
    """Return which objectives have a gradient that is not zero (a NaN counts as present, so that it stays visible)."""
    return squared_norms(gramian) != 0


def cosines(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K K"]:
    """Return the cosines of the angles between gradients; 0 if one of the two is absent."""
    norms = squared_norms(gramian).sqrt()
    product = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    return torch.where(product == 0, 0.0, gramian / torch.where(product == 0, 1.0, product))


def lowest_cosine(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M"]:
    """Return the smallest cosine between two present objectives; 1 if there are fewer than two."""
    present = is_present(gramian)
    pairs = present.unsqueeze(-1) & present.unsqueeze(-2)
    pairs = pairs & ~torch.eye(gramian.shape[-1], dtype=torch.bool, device=gramian.device)
    return torch.where(pairs, cosines(gramian), 1.0).flatten(-2).amin(-1)


def has_conflict(gramian: Float64[Tensor, "*M K K"]) -> Bool[Tensor, "*M"]:
    """Return whether any two objectives have a negative inner product; an absent one conflicts with none."""
    return (gramian < 0).flatten(-2).any(-1)


def combined_norm(gramian: Float64[Tensor, "*M K K"], weights: Float[Tensor, "*M K"]) -> Float64[Tensor, "*M"]:
    """Return |sum_i w_i g_i|; a square that rounds below zero counts as zero."""
    w = weights.double()
    return (alignment(gramian, w) * w).sum(-1).clamp(min=0).sqrt()


def alignment(gramian: Float64[Tensor, "*M K K"], weights: Float[Tensor, "*M K"]) -> Float64[Tensor, "*M K"]:
    """Return <h, g_i> for h = sum_j w_j g_j: positive if a step along -h lowers objective i to first order."""
    return (gramian @ weights.double().unsqueeze(-1)).squeeze(-1)
