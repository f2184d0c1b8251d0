"""The two contrastive losses as in the papers, with loops over rows: the reference of every loss test."""

import torch
from torch import Tensor


def naive_info_nce(
    u: Tensor, v: Tensor, log_scale: Tensor, *, valid: Tensor | None = None, ids: Tensor | None = None
) -> Tensor:
    """Radford et al. 2021, fig. 3: the mean over valid rows of the two cross-entropies, halved."""
    logits = log_scale.exp() * u @ v.T
    terms = []
    for i in _valid_rows(u, valid):
        columns = [*_negatives(i, len(u), valid, ids), i]
        by_row, by_column = logits[i, columns], logits[columns, i]
        terms += [torch.logsumexp(by_row, 0) - logits[i, i], torch.logsumexp(by_column, 0) - logits[i, i]]
    return torch.stack(terms).sum() / len(terms) if terms else 0 * _touch(u, v, log_scale)


def naive_sigmoid(
    u: Tensor,
    v: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    *,
    valid: Tensor | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """Zhai et al. 2023, eq. 1: -1/|B| sum_i sum_j log sigmoid(z_ij (t u_i v_j + b))."""
    logits = log_scale.exp() * u @ v.T + bias
    rows = _valid_rows(u, valid)
    terms = []
    for i in rows:
        terms.append(-torch.nn.functional.logsigmoid(logits[i, i]))
        terms += [-torch.nn.functional.logsigmoid(-logits[i, j]) for j in _negatives(i, len(u), valid, ids)]
    return torch.stack(terms).sum() / len(rows) if rows else 0 * (_touch(u, v, log_scale) + bias)


def _valid_rows(u: Tensor, valid: Tensor | None) -> list[int]:
    return [i for i in range(len(u)) if valid is None or valid[i]]


def _negatives(i: int, count: int, valid: Tensor | None, ids: Tensor | None) -> list[int]:
    return [j for j in range(count) if j != i and (valid is None or valid[j]) and not _share_id(ids, i, j)]


def _share_id(ids: Tensor | None, i: int, j: int) -> bool:
    if ids is None:
        return False
    columns = ids if ids.ndim == 2 else ids[:, None]
    return any(a == b != -1 for a, b in zip(columns[i].tolist(), columns[j].tolist(), strict=True))


def _touch(u: Tensor, v: Tensor, log_scale: Tensor) -> Tensor:
    """Return a zero that depends on every input, so that gradients exist; NaN in masked rows has no effect."""
    return u.nan_to_num().sum() + v.nan_to_num().sum() + log_scale
