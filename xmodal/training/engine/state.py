"""The state of training: everything that a training step reads and updates."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.batch import Batch
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.errors import ConfigError, nearest
from xmodal.gradients import ParameterSpace
from xmodal.training.engine.optimizer import adamw, sgd
from xmodal.training.engine.randomness import seeded_rng
from xmodal.training.objective import Objective

PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("adamw", "sgd")


@dataclass(kw_only=True)
class TrainState:
    """The objective, its optimizer, and the number of finished steps; only `train_step` changes it.

    `step` counts finished updates, so it is also the number of the next one. `ddp` wraps `objective` if there is more
    than one rank; both share the same parameters. `rows_per_forward` None means one forward for all rows of this rank.
    With a `space` the gradients of the multimodal and of the unimodal losses are computed separately, and reduced and
    weighted by it; there is no DDP then.
    """

    objective: Objective
    ddp: DistributedDataParallel | None
    space: ParameterSpace | None = None
    audit: "Callable[[TrainState, Batch], dict[str, Tensor]] | None" = None  # more metrics, computed before each step
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    seed: int
    precision: str = "fp32"
    rows_per_forward: int | None = None
    max_grad_norm: float | None = 1.0
    check_every: int = 200  # steps between comparisons of the ranks' weights
    step: int = 0
    clamps: Tensor  # int64 scalar on the device: number of steps after which the scale was clamped
    ddp_warmed_up: bool = False  # whether DDP has rebuilt its buckets in this process
    notice: bool = False  # whether this rank knows that its machine will soon be taken away; set by the caller
    notices: int = 0  # number of ranks that had a notice at the last step, alike on all ranks

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
        """Create a state at step 0 of an objective that is on its device already, with DDP if there are several ranks.

        Puts the objective into training mode (`from_pretrained` leaves models in evaluation mode). The defaults of
        AdamW are those of Radford et al. 2021, table 19 (ViT); `momentum` is for SGD. Raises ConfigError for an
        unknown precision or optimizer, or impossible counts.
        """
        _check_options(precision, optimizer, rows_per_forward, check_every)
        objective.train()
        optimizer_object = (
            adamw(objective, weight_decay=weight_decay, betas=betas, eps=eps, lr_scale=objective.lr_scale)
            if optimizer == "adamw"
            else sgd(objective, weight_decay=weight_decay, momentum=momentum, lr_scale=objective.lr_scale)
        )
        return cls(
            objective=objective,
            ddp=None if space is not None else _wrap(objective),
            space=space,
            audit=audit,
            optimizer=optimizer_object,
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
        """Return the module that a training forward must call: the DDP wrapper if there is one."""
        return self.objective if self.ddp is None else self.ddp

    @property
    def device(self) -> torch.device:
        return self.clamps.device

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward: bfloat16 matrix products for `bf16`, no change for `fp32`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def randomness(self, *, chunk: int) -> AbstractContextManager[None]:
        """Return the context of a forward in which random numbers are a function of (seed, step, rank, chunk)."""
        return seeded_rng(self.device, self.seed, self.step, current_rank(), chunk)


def _check_options(precision: str, optimizer: str, rows_per_forward: int | None, check_every: int) -> None:
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {optimizer!r}; {nearest(optimizer, OPTIMIZERS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}; {nearest(precision, PRECISIONS)}")
    if rows_per_forward is not None and rows_per_forward < 1:
        raise ConfigError(f"rows_per_forward={rows_per_forward} must be at least 1, or None for no chunks")
    if check_every < 1:
        raise ConfigError(f"check_every={check_every} must be at least 1 step")


def _wrap(objective: Objective) -> DistributedDataParallel | None:
    """Wrap in DDP with gradients as views of its buckets (no second copy); running statistics follow rank 0."""
    if world_size() == 1:
        return None
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)
