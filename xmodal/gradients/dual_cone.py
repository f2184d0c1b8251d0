"""PCGrad and UPGrad: weights of projections onto the dual cone of the gradients.

The dual cone holds the directions that oppose no objective, {h : <h, g_i> >= 0}. Both methods project every gradient
and add up; without conflict both are the plain sum, and with two objectives they are the same.
"""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from xmodal.gradients.gramian import is_present, squared_norms
from xmodal.gradients.min_norm import active_sets, check_objective_count


def pcgrad(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K"]:
    """Return the weights of PCGrad (Yu et al. 2020, algorithm 1): each gradient loses in turn what opposes the others.

    The paper draws the order of the others at random; here it is cyclic (i+1, i+2, ...), so that a step can be
    repeated. For more than two objectives the sum may still oppose one of them.
    """
    count = gramian.shape[-1]
    rows = torch.eye(count, dtype=torch.float64, device=gramian.device).expand_as(gramian)
    length = squared_norms(gramian).unsqueeze(-2)
    for shift in range(1, count):
        other = torch.eye(count, dtype=torch.float64, device=gramian.device).roll(shift, 1)  # row i: j = i + shift
        product = ((rows @ gramian) * other).sum(-1, keepdim=True)
        square = (length * other).sum(-1, keepdim=True)
        step = torch.where(square == 0, 0.0, product.clamp(max=0) / torch.where(square == 0, 1.0, square))
        rows = rows - step * other
    return rows.sum(-2)


def upgrad(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K"]:
    """Return the weights of UPGrad (Quinton & Rey 2024, eq. 5), as a sum: each gradient projected onto the dual cone.

    The paper takes the mean. Opposes no objective. Exact for up to eight objectives; ConfigError beyond. No host
    synchronisation. The projection of g_i has weights e_i + lambda with lambda >= 0, G (e_i + lambda) >= 0 and the two
    complementary.
    """
    check_objective_count(gramian)
    norms = squared_norms(gramian).sqrt()
    safe = torch.where(is_present(gramian), norms, 1.0)
    unit = gramian / (safe.unsqueeze(-1) * safe.unsqueeze(-2))
    rows = _project_each(unit, is_present(gramian)) if gramian.shape[-1] != 2 else _project_two(unit)
    return (rows * safe.unsqueeze(-1) / safe.unsqueeze(-2)).sum(-2)


def _project_two(unit: Float64[Tensor, "*M 2 2"]) -> Float64[Tensor, "*M 2 2"]:
    """Return one row per gradient: 1 at itself, and -cos at the other one if the cosine is negative."""
    away = (-unit[..., 0, 1]).clamp(min=0)
    ones = torch.ones_like(away)
    return torch.stack([torch.stack([ones, away], -1), torch.stack([away, ones], -1)], -2)


def _project_each(unit: Float64[Tensor, "*M K K"], present: Bool[Tensor, "*M K"]) -> Float64[Tensor, "*M K K"]:
    """Return the weights of the projection of each unit gradient: of all active sets, that which violates KKT least."""
    count = unit.shape[-1]
    eye = torch.eye(count, dtype=torch.float64, device=unit.device)
    sets = torch.cat([torch.zeros_like(active_sets(count, unit.device)[:1]), active_sets(count, unit.device)])
    member = sets.double()
    inside = member.unsqueeze(-1) * member.unsqueeze(-2)
    block = torch.where(inside > 0, unit.unsqueeze(-3), torch.diag_embed(1 - member))
    right = -member.unsqueeze(-1) * unit.unsqueeze(-3)  # column i: -(G e_i)_S
    solved = torch.linalg.solve_ex(block, right).result * member.unsqueeze(-1)
    weights = eye + solved.clamp(min=0)
    product = unit.unsqueeze(-3) @ weights
    violation = torch.maximum((-solved).amax(-2), (-product).amax(-2))
    violation = torch.maximum(violation, (product * member.unsqueeze(-1)).abs().amax(-2))
    usable = violation.isfinite() & ~(sets & ~present.unsqueeze(-2)).any(-1).unsqueeze(-1)
    best = torch.where(usable, violation, torch.inf).argmin(-2)
    index = best[..., None, :, None].expand(*best.shape[:-1], 1, count, count)
    best_weights: Tensor = weights.transpose(-1, -2).gather(-3, index)
    return best_weights.squeeze(-3)
