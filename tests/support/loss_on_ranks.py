"""What one rank does in the distributed loss tests; importable without pytest or hypothesis, as `ranks.run` needs.

A case is a dict of tensors of all N rows; each rank takes its B of them. Functions return plain tensors.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.distributed.ranks import across_ranks, mean_over_ranks
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
    """One forward through DDP returns the loss, as the trainer does it."""

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
    """The global loss, this rank's share, and every parameter's gradient after DDP's mean."""
    module = DistributedDataParallel(WithLoss(case, kind, tile))
    share = module(own_part(case))
    share.backward()
    gradients = {name.removeprefix("module.model."): p.grad for name, p in module.named_parameters()}
    return {"loss": mean_over_ranks(share), "share": share.detach(), **gradients}


def feature_gradients(case: Case, kind: str, tile: int) -> dict[str, Tensor]:
    """Gradients of this rank's share with respect to this rank's features."""
    rows = own_part(case)
    u, v = (rows[name].clone().requires_grad_() for name in ("image", "text"))
    masks: dict[str, Any] = {"valid": rows.get("valid"), "ids": rows.get("ids"), "tile": tile}
    if kind == "info_nce":
        share = info_nce(u, v, case["log_scale"], **masks)
    else:
        share = sigmoid_loss(u, v, case["log_scale"], case["bias"], **masks)
    share.backward()
    return {"share": share.detach(), "u": u.grad, "v": v.grad}


def own_part(case: Case) -> Case:
    """This rank's consecutive rows of everything that has rows."""
    size = len(case["image"]) // dist.get_world_size()
    own = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    return {name: case[name][own] for name in ("image", "text", "valid", "ids") if name in case}


def gather_and_weigh(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gathered rows, and the gradient of this rank's rows when rank r weighs the gathered rows by weights[r]."""
    size = len(x) // dist.get_world_size()
    mine = x[dist.get_rank() * size :][:size].clone().requires_grad_()
    every = across_ranks(mine)
    (every * weights[dist.get_rank()]).sum().backward()
    return every.detach(), mine.grad


def own_group_loss(case: Case) -> Tensor:
    """The loss inside a subgroup of one rank each: no row of another rank takes part."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    rows = own_part(case)
    return info_nce(rows["image"], rows["text"], case["log_scale"], group=groups[dist.get_rank()])


def unequal_rows(counts: list[int]) -> str:
    """The message of the error when ranks hold different numbers of rows."""
    u = torch.ones(counts[dist.get_rank()], 4)
    try:
        info_nce(u, u, torch.tensor(0.0))
    except ValueError as error:
        return str(error)
    return "no error"
