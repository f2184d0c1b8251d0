"""Gamma beside the gradient instead of inside it: optimizer groups in, groups whose encoders move gamma times as far.

Adam and its kin divide by the gradient's own size, so a constant gamma on the gradient cancels, and so it does under an
active clip of the global norm. As a factor on the learning rate it does neither. The weight decay of a group with gain
gamma is divided by gamma: under SGD with any momentum this is then the same training as gamma on the gradient, and
under AdamW the decay of the baseline. Use a weighting with gamma=1 together with a gain; clipping then acts before it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import ConfigError
from xmodal.gradients.partition import Partition

Groups = list[dict[str, Any]]


def with_gain(groups: Iterable[Mapping[str, Any]], partition: Partition, gamma: float) -> Groups:
    """Optimizer groups divided into encoders' and other parameters; the encoders' carry `gain` gamma.

    Set rates with `set_rate`. ConfigError for a gamma that is not positive.
    """
    if not gamma > 0:
        raise ConfigError(f"gamma={gamma} must be positive")
    encoders = {p for block in partition.encoders.values() for p in block}
    found: Groups = []
    for group in groups:
        inside = [p for p in group["params"] if p in encoders]
        outside = [p for p in group["params"] if p not in encoders]
        decay = group.get("weight_decay", 0.0)
        if inside:
            found.append({**group, "params": inside, "weight_decay": decay / gamma, "gain": gamma})
        if outside:
            found.append({**group, "params": outside, "gain": 1.0})
    return found


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of every group: `rate` x its gain (1 where it has none)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("gain", 1.0)


@torch.no_grad()
def clip_before_gain_(partition: Partition, gamma: float, max_norm: float) -> Tensor:
    """Clip gradients that contain gamma by the norm that they would have without it; returns that norm.

    One factor min(1, max_norm / norm) for all parameters, so that directions and gamma survive an active clip. Without
    conflict the norm is that of the uniform baseline. Parameters without a gradient are passed over.
    """
    encoders = [p.grad for block in partition.encoders.values() for p in block if p.grad is not None]
    others = [p.grad for p in partition.others if p.grad is not None]
    parts = [(found, scale) for found, scale in ((encoders, gamma), (others, 1.0)) if found]
    norms = [torch.nn.utils.get_total_norm(found).double() / scale for found, scale in parts]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in encoders + others:
        gradient.mul_(factor.to(gradient.dtype))
    return norm
