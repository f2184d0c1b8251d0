"""The work of one rank in the distributed loss tests; importable without pytest or hypothesis.

A case is a dict of tensors of all N rows; each rank takes its B of them. Functions return plain tensors.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.losses.contrastive import info_nce, sigmoid_loss

Case = dict[str, Tensor]


class LinearPair(nn.Module):
    """Two linear towers, a temperature and a bias: the smallest model with every kind of parameter."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.towers = nn.ParameterList(nn.Parameter(case[name].clone()) for name in ("image_tower", "text_tower"))
        self.log_scale = nn.Parameter(case["log_scale"].clone())
        self.bias = nn.Parameter(case["bias"].clone())

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        u, v = (nn.functional.normalize(x @ tower, dim=1) for x, tower in zip((image, text), self.towers, strict=True))
        return u, v


class WithLoss(nn.Module):
    """A module whose forward through DDP returns the loss, like the trainer's objective."""

    def __init__(self, case: Case, kind: str, tile: int) -> None:
        super().__init__()
        self.model = LinearPair(case)
        self.kind = kind
        self.tile = tile

    def forward(self, rows: Case) -> Tensor:
        u, v = self.model(rows["image"], rows["text"])
        masks: dict[str, Any] = {"valid": rows.get("valid"), "ids": rows.get("ids"), "tile": self.tile}
        if self.kind == "info_nce":
            return info_nce(u, v, self.model.log_scale, **masks) + 0 * self.model.bias
        return sigmoid_loss(u, v, self.model.log_scale, self.model.bias, **masks)


def train_once(case: Case, kind: str, tile: int) -> dict[str, Tensor]:
    """Return the global loss, this rank's share, and every parameter's gradient after DDP's mean."""
    module = DistributedDataParallel(WithLoss(case, kind, tile))
    share = module(rank_rows(case))
    share.backward()
    gradients = {name.removeprefix("module.model."): p.grad for name, p in module.named_parameters()}
    return {"loss": mean_over_ranks(share), "share": share.detach(), **gradients}


def mean_over_ranks(share: Tensor) -> Tensor:
    """Return the global loss, which is the mean of the ranks' shares. A collective call."""
    mean = share.detach().clone()
    dist.all_reduce(mean)
    return mean / dist.get_world_size()


def feature_gradients(case: Case, kind: str, tile: int) -> dict[str, Tensor]:
    """Return the gradients of this rank's share with respect to this rank's features."""
    rows = rank_rows(case)
    u, v = (rows[name].clone().requires_grad_() for name in ("image", "text"))
    masks: dict[str, Any] = {"valid": rows.get("valid"), "ids": rows.get("ids"), "tile": tile}
    if kind == "info_nce":
        share = info_nce(u, v, case["log_scale"], **masks)
    else:
        share = sigmoid_loss(u, v, case["log_scale"], case["bias"], **masks)
    share.backward()
    return {"share": share.detach(), "u": u.grad, "v": v.grad}


def rank_rows(case: Case) -> Case:
    """Return this rank's consecutive rows of everything that has rows."""
    size = len(case["image"]) // dist.get_world_size()
    rows = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    return {name: case[name][rows] for name in ("image", "text", "valid", "ids") if name in case}


def single_rank_group_loss(case: Case) -> Tensor:
    """Return the loss inside a subgroup of one rank each: no row of another rank takes part."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    rows = rank_rows(case)
    return info_nce(rows["image"], rows["text"], case["log_scale"], group=groups[dist.get_rank()])


def unequal_rows(counts: list[int]) -> str:
    """Return the message of the error raised if ranks hold different numbers of rows."""
    u = torch.ones(counts[dist.get_rank()], 4)
    try:
        info_nce(u, u, torch.tensor(0.0))
    except ValueError as error:
        return str(error)
    return "no error"
