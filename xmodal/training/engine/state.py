"""All that a training step reads and moves: an objective and hyper-parameters in, one `TrainState` out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.batch import Batch
from xmodal.distributed.ranks import Group, rank_in, world_size
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import ParameterSpace
from xmodal.training.engine.optimizer import adamw, sgd
from xmodal.training.engine.randomness import repeatable
from xmodal.training.objective import Objective

PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("adamw", "sgd")


@dataclass(kw_only=True)
class TrainState:
    """The objective, its optimizer, and the cursor. `train_step` is the only thing that moves it.

    `step` counts finished updates, so it is also the number of the next one. `ddp` wraps `objective` when there is more
    than one rank; both share the same parameters. `rows_per_forward` None means the whole per-rank batch in one piece.
    With a `space` the gradients of the multimodal and of the unimodal losses are taken apart, reduced and weighed by
    it, and there is no DDP.
    """

    objective: Objective
    ddp: DistributedDataParallel | None
    space: ParameterSpace | None = None
    audit: "Callable[[TrainState, Batch], dict[str, Tensor]] | None" = (
        None  # further figures of a step, taken before it
    )
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    seed: int
    precision: str = "fp32"
    rows_per_forward: int | None = None
    max_grad_norm: float | None = 1.0
    check_every: int = 200  # steps between comparisons of the ranks' weights
    step: int = 0
    clamps: Tensor  # int64 scalar on the device: steps after which the scale was clamped
    rehearsed: bool = False  # DDP has settled its buckets in this process

    @classmethod
    def create(
        cls,
        objective: Objective,
        *,
        schedule: Callable[[int], float],
        seed: int,
        space: ParameterSpace | None = None,
        audit: "Callable[[TrainState, Batch], dict[str, Tensor]] | None" = None,
        optimizer: str = "adamw",
        weight_decay: float = 0.2,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        momentum: float = 0.9,
        precision: str = "fp32",
        rows_per_forward: int | None = None,
        max_grad_norm: float | None = 1.0,
        check_every: int = 200,
    ) -> "TrainState":
        """A state at step 0 of an objective that already lies on its device; wraps it in DDP when ranks are several.

        Puts the objective into training mode (`from_pretrained` leaves models in evaluation mode).

        Defaults of the optimizer: Radford et al. 2021, table 19 (ViT); `momentum` is SGD's. Raises ConfigError on an
        unknown precision or optimizer, or impossible counts.
        """
        _check_plain_arguments(precision, optimizer, rows_per_forward, check_every)
        objective.train()
        made = (
            adamw(objective, weight_decay=weight_decay, betas=betas, eps=eps, gain=objective.gain)
            if optimizer == "adamw"
            else sgd(objective, weight_decay=weight_decay, momentum=momentum, gain=objective.gain)
        )
        return cls(
            objective=objective,
            ddp=None if space is not None else _wrap(objective, objective.group),
            space=space,
            audit=audit,
            optimizer=made,
            schedule=schedule,
            seed=seed,
            precision=precision,
            rows_per_forward=rows_per_forward,
            max_grad_norm=max_grad_norm,
            check_every=check_every,
            clamps=torch.zeros((), dtype=torch.int64, device=next(objective.parameters()).device),
        )

    @property
    def module(self) -> nn.Module:
        """What a training forward must call: the DDP wrapper where there is one."""
        return self.objective if self.ddp is None else self.ddp

    @property
    def group(self) -> Group:
        return self.objective.group

    @property
    def device(self) -> torch.device:
        return self.clamps.device

    def autocast(self) -> AbstractContextManager[None]:
        """The region of a forward: bfloat16 matrix products for `bf16`, nothing for `fp32`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def randomness(self, *, chunk: int) -> AbstractContextManager[None]:
        """The region of a forward whose draws are a function of (seed, step, rank, chunk)."""
        return repeatable(self.device, self.seed, self.step, rank_in(self.group), chunk)


def _check_plain_arguments(precision: str, optimizer: str, rows_per_forward: int | None, check_every: int) -> None:
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {optimizer!r}; {nearest(optimizer, OPTIMIZERS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}; {nearest(precision, PRECISIONS)}")
    if rows_per_forward is not None and rows_per_forward < 1:
        raise ConfigError(f"rows_per_forward={rows_per_forward} must be at least 1, or None for no chunks")
    if check_every < 1:
        raise ConfigError(f"check_every={check_every} must be at least 1 step")


def _wrap(objective: Objective, group: Group) -> DistributedDataParallel | None:
    """DDP with gradients as views of its buckets (no second copy); running statistics follow rank 0."""
    if world_size(group) == 1:
        return None
    return DistributedDataParallel(objective, process_group=group, gradient_as_bucket_view=True)
