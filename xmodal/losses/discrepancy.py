"""Discrepancies between the feature distributions of two domains that training can minimise: MMD and CORAL.

S, T: rows of source and target on this rank.  D: width.  The valid rows of all ranks are gathered with gradients, so
the value does not depend on the number of ranks; every rank returns the whole value as its share. If a domain has fewer
than two valid rows, the value and all gradients are 0. No critic and no state; memory and time grow with the square of
the gathered rows (4,096 of each domain: 270 MB for each kernel).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.distributed.ranks import Group
from xmodal.losses.valid_rows import gather_valid_rows

BANDWIDTH_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # multiples of the median squared distance


def mmd(
    source: Float[Tensor, "S D"],
    target: Float[Tensor, "T D"],
    valid_source: Bool[Tensor, "S"] | None = None,
    valid_target: Bool[Tensor, "T"] | None = None,
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Return the unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with five Gaussian kernels.

    The kernel is the mean of exp(-d² / (a m)) for a in `BANDWIDTH_SCALES`; m is the median squared distance between
    different rows of both domains together, recomputed for each batch and constant in the backward. Without a shift its
    mean is 0 for any number of rows (so it may be negative); that of the biased estimator is not 0 and grows as the
    batch shrinks. `valid_source` and `valid_target` mark the rows that count (None: all).

    >>> rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> bool(mmd(rows[:32], rows[32:] + 1) > mmd(rows[:32], rows[32:]).abs())
    True
    """
    with torch.autocast(source.device.type, enabled=False):
        x, y = gather_valid_rows(source, valid_source, group), gather_valid_rows(target, valid_target, group)
        if min(len(x), len(y)) < 2:
            return 0 * (x.sum() + y.sum())
        kernel = _kernels(torch.cat([x, y]))
        blocks = kernel[: len(x), : len(x)], kernel[len(x) :, len(x) :]
        within_domains = [block.sum(1).double().sum() for block in blocks]
        between = kernel[: len(x), len(x) :].sum(1).double().sum()
        value = sum(total / (n * (n - 1)) for total, n in zip(within_domains, (len(x), len(y)), strict=True))
        return (value - 2 * between / (len(x) * len(y))).to(x.dtype)


def coral(
    source: Float[Tensor, "S D"],
    target: Float[Tensor, "T D"],
    valid_source: Bool[Tensor, "S"] | None = None,
    valid_target: Bool[Tensor, "T"] | None = None,
    *,
    group: Group = None,
) -> Float[Tensor, ""]:
    """Return the squared distance of both covariances over 4 D² (deep CORAL, Sun & Saenko 2016, eq. 1 to 3).

    It ignores means and everything beyond second moments, and is a biased estimate: not 0 without a shift.
    `valid_source` and `valid_target` mark the rows that count (None: all).

    >>> rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> bool(coral(rows[:32], 2 * rows[32:]) > coral(rows[:32], rows[32:] + 1))
    True
    """
    with torch.autocast(source.device.type, enabled=False):
        x, y = gather_valid_rows(source, valid_source, group), gather_valid_rows(target, valid_target, group)
        if min(len(x), len(y)) < 2:
            return 0 * (x.sum() + y.sum())
        return (_covariance(x) - _covariance(y)).square().sum() / (4 * x.shape[1] ** 2)


def squared_distances(rows: Float[Tensor, "n D"]) -> Float[Tensor, "n n"]:
    """Return the squared distances of all pairs of rows, in [0, inf).

    Rows are centred first, so that a common offset costs no digits.
    """
    centred = rows - rows.mean(0).detach()
    length = centred.square().sum(1)
    return (length[:, None] + length[None, :] - 2 * centred @ centred.T).clamp(min=0)


def _kernels(rows: Tensor) -> Tensor:
    """Return the mean kernel of all pairs [n, n], 0 on the diagonal."""
    squared = squared_distances(rows)
    same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    median = squared.detach()[~same].median().clamp(min=torch.finfo(rows.dtype).tiny)
    kernels = torch.stack([torch.exp(-squared / (scale * median)) for scale in BANDWIDTH_SCALES]).mean(0)
    return kernels.masked_fill(same, 0)


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)
