"""The weights of the shortest vector in the convex hull of the gradients (MGDA, Désidéri 2012).

alpha = argmin |sum_i alpha_i g_i|^2 over alpha >= 0, sum alpha = 1. Its KKT conditions: <h, g_i> = |h|^2 where
alpha_i > 0 and <h, g_i> >= |h|^2 elsewhere; so h opposes no objective, and h = 0 exactly at a Pareto-stationary point.
"""

from functools import cache

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from xmodal.errors import ConfigError
from xmodal.gradients.gramian import is_present, squared_norms

MAX_OBJECTIVES = 8  # the exact solvers try every one of 2^K active sets


def min_norm(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K"]:
    """Return weights on the simplex over the present objectives (all zero if none is present); no host synchronisation.

    Two objectives: Sener & Koltun 2018, eq. 6. Up to eight: all active sets at once, the shortest feasible candidate
    wins, so that rounding can only make it longer, never infeasible. Raises ConfigError for more than eight.

    >>> min_norm(torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double())
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    check_objective_count(gramian)
    if gramian.shape[-1] == 1:
        return is_present(gramian).double()
    return _solve_two(gramian) if gramian.shape[-1] == 2 else _solve_several(gramian)


def check_objective_count(gramian: Tensor) -> None:
    """Raise ConfigError if there are more objectives than the exact solvers support."""
    if gramian.shape[-1] > MAX_OBJECTIVES:
        raise ConfigError(
            f"{gramian.shape[-1]} objectives: the exact solvers take at most {MAX_OBJECTIVES}; "
            "use pcgrad or uniform, or sum some of the objectives"
        )


def _solve_two(gramian: Float64[Tensor, "*M 2 2"]) -> Float64[Tensor, "*M 2"]:
    """Return alpha_1 = (c - b) / (a + c - 2 b) within [0, 1], and alpha_2; equal gradients share."""
    a, b, c = gramian[..., 0, 0], gramian[..., 0, 1], gramian[..., 1, 1]
    width = a + c - 2 * b  # |g_1 - g_2|^2
    first = torch.where(width == 0, 0.5, (c - b) / torch.where(width == 0, 1.0, width)).clamp(0, 1)
    present = is_present(gramian)
    first = torch.where(present.all(-1), first, present[..., 0].double())
    second = torch.where(present.all(-1), 1 - first, present[..., 1].double())
    return torch.stack([first, second], -1)


def _solve_several(gramian: Float64[Tensor, "*M K K"]) -> Float64[Tensor, "*M K"]:
    """Solve G_SS alpha = mu 1, sum alpha = 1 for each set S of objectives; alpha clipped to the simplex is feasible.

    By Carathéodory some optimal alpha has affinely independent gradients in its support, and for that set the bordered
    system is regular; a singular system gives NaN and is skipped.
    """
    count = gramian.shape[-1]
    scale = squared_norms(gramian).amax(-1, keepdim=True).unsqueeze(-1)
    unit = gramian / torch.where(scale == 0, 1.0, scale)
    sets = active_sets(count, gramian.device)
    member = sets.double()
    bordered = _bordered_systems(unit.unsqueeze(-3), member)
    right = torch.zeros(count + 1, dtype=torch.float64, device=gramian.device)
    right[-1] = 1
    solved = torch.linalg.solve_ex(bordered, right.expand(bordered.shape[:-1]).unsqueeze(-1)).result
    alpha = (solved.squeeze(-1)[..., :-1] * member).clamp(min=0)
    alpha = alpha / alpha.sum(-1, keepdim=True)
    length = (alpha * (unit.unsqueeze(-3) @ alpha.unsqueeze(-1)).squeeze(-1)).sum(-1)
    usable = length.isfinite() & ~(sets & ~is_present(gramian).unsqueeze(-2)).any(-1)
    return _cheapest(alpha, torch.where(usable, length, torch.inf), is_present(gramian))


def _bordered_systems(
    unit: Float64[Tensor, "*M 1 K K"], member: Float64[Tensor, "S K"]
) -> Float64[Tensor, "*M S K1 K1"]:
    """Return [[G_SS + I elsewhere, 1_S], [1_S, 0]] for each set."""
    inside = member.unsqueeze(-1) * member.unsqueeze(-2)
    block = torch.where(inside > 0, unit, torch.diag_embed(1 - member))
    column = member.unsqueeze(-1).expand(*block.shape[:-1], 1)
    row = torch.cat([member, torch.zeros_like(member[:, :1])], -1).unsqueeze(-2)
    row = row.expand(*block.shape[:-2], *row.shape[-2:])
    return torch.cat([torch.cat([block, column], -1), row], -2)


def _cheapest(
    candidates: Float64[Tensor, "*M S K"], cost: Float64[Tensor, "*M S"], present: Bool[Tensor, "*M K"]
) -> Float64[Tensor, "*M K"]:
    """Return the cheapest candidate; zeros if no objective is present, NaN if no candidate is finite."""
    best = cost.argmin(-1)[..., None, None].expand(*cost.shape[:-1], 1, candidates.shape[-1])
    chosen = candidates.gather(-2, best).squeeze(-2)
    failed = cost.isinf().all(-1, keepdim=True)
    empty = torch.where(present.any(-1, keepdim=True), torch.nan, 0.0)
    return torch.where(failed, empty, chosen)


@cache
def active_sets(count: int, device: torch.device) -> Bool[Tensor, "S K"]:
    """Return every non-empty set of `count` objectives as a mask, small sets first."""
    numbers = sorted(range(1, 2**count), key=lambda n: (n.bit_count(), n))
    rows = [[bool(n >> i & 1) for i in range(count)] for n in numbers]
    return torch.tensor(rows, device=device)
