"""Distances between the distributions of two domains: features in, one number out that training can make small.

S, T: rows of source and target on this rank.  D: width.  Rows of all ranks are gathered (valid ones, with gradient), so
the value does not depend on the number of ranks; every rank returns all of it, as its share. Where a domain has fewer
than two valid rows the value and all gradients are 0. No critic, no state; memory and time grow with the square of the
gathered rows (4,096 of each domain: 270 MB for each of the kernels).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.valid_rows import valid_rows

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance


def mmd(
    source: Float[Tensor, "S D"],
    target: Float[Tensor, "T D"],
    valid_source: Bool[Tensor, "S"],
    valid_target: Bool[Tensor, "T"],
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """The unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), a mean of five Gaussian kernels.

    Kernels exp(-d² / (a m)) for a in `SCALES`, where m is the median squared distance of different rows of both domains
    together, taken anew for each batch, as a constant. Under no shift its mean is 0 for any number of rows (so it may
    be negative); the biased estimator's is not, and grows as the batch shrinks.
    """
    with torch.autocast(source.device.type, enabled=False):
        x, y = valid_rows(source, valid_source, group), valid_rows(target, valid_target, group)
        if min(len(x), len(y)) < 2:
            return 0 * (x.sum() + y.sum())
        kernel = _kernels(torch.cat([x, y]))
        within = [part.sum(1).double().sum() for part in (kernel[: len(x), : len(x)], kernel[len(x) :, len(x) :])]
        across = kernel[: len(x), len(x) :].sum(1).double().sum()
        value = sum(total / (n * (n - 1)) for total, n in zip(within, (len(x), len(y)), strict=True))
        return (value - 2 * across / (len(x) * len(y))).to(x.dtype)


def coral(
    source: Float[Tensor, "S D"],
    target: Float[Tensor, "T D"],
    valid_source: Bool[Tensor, "S"],
    valid_target: Bool[Tensor, "T"],
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """The squared distance of both covariances over 4 D² (deep CORAL, Sun & Saenko 2016, eq. 1 to 3).

    It sees neither means nor anything beyond second moments, and is no unbiased estimate: not 0 under no shift.
    """
    with torch.autocast(source.device.type, enabled=False):
        x, y = valid_rows(source, valid_source, group), valid_rows(target, valid_target, group)
        if min(len(x), len(y)) < 2:
            return 0 * (x.sum() + y.sum())
        return (_covariance(x) - _covariance(y)).square().sum() / (4 * x.shape[1] ** 2)


def squared_distances(rows: Float[Tensor, "n D"]) -> Float[Tensor, "n n"]:
    """Of all pairs of rows, in [0, inf); centred first, so that a common offset costs no digits."""
    centred = rows - rows.mean(0).detach()
    length = centred.square().sum(1)
    return (length[:, None] + length[None, :] - 2 * centred @ centred.T).clamp(min=0)


def _kernels(rows: Tensor) -> Tensor:
    """The mean of the kernels of all pairs [n, n], 0 on the diagonal."""
    squared = squared_distances(rows)
    same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    median = squared.detach()[~same].median().clamp(min=torch.finfo(rows.dtype).tiny)
    kernels = torch.stack([torch.exp(-squared / (scale * median)) for scale in SCALES]).mean(0)
    return kernels.masked_fill(same, 0)


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)
