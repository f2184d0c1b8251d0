"""One training step: updates a training state with this rank's rows of a global batch, and returns plain metrics."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.rank_consistency import all_reduce_sum, check_same_weights
from xmodal.distributed.ranks import world_size
from xmodal.distributed.synchrony import check_synchronised
from xmodal.errors import ConfigError, RanksDiverged
from xmodal.training.engine.accumulation import backward, copy_buffers, restore_buffers
from xmodal.training.engine.finite_check import raise_nonfinite
from xmodal.training.engine.optimizer import set_learning_rate, trainable
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import Losses

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The values that the host reads from the device, once in each step; the same on all ranks."""

    loss: float
    bad_ranks: float  # number of ranks with a non-finite loss or gradient
    n_valid: float
    n_bad: float
    mean_step: float  # mean step number over ranks
    notices: float  # number of ranks with a notice that their machine will soon be taken away
    clamps: float
    grad_norm: float
    further: dict[str, float]  # metrics of the objective (logit_scale, temperature), of the space and of an audit


def train_step(state: TrainState, batch: Batch) -> Metrics:
    """Update the state once on the global batch of which `batch` is this rank's part; all parts have the same size.

    `loss` is the mean over all valid rows. `grad_norm` is the norm before clipping. `n_valid` and `n_bad` count rows
    of all ranks (padding is neither). `clamps` counts earlier steps that ended with the scale clamped. The metrics
    include those of an `audit`. `state.notices` tells how many ranks came with a `state.notice`.

    Raises NonFiniteLoss on every rank, without an update, if the loss or a gradient of any rank is not finite.
    Raises RanksDiverged if the ranks' weights or steps differ, and NeverSynchronised if their gradients differ; weights
    and gradients are compared at the first step of a process and every `check_every` steps.
    """
    if not state.objective.training:  # after an evaluation
        state.objective.train()
    state.objective.set_step(state.step)
    compare_ranks = state.step % state.check_every == 0 or not state.ddp_warmed_up
    if compare_ranks:
        check_same_weights(state.objective, state.step)
    audit_metrics = state.audit(state, batch) if state.audit is not None else {}
    buffers = copy_buffers(state.objective)
    losses = _gradients(state, batch, buffers)
    if compare_ranks:
        check_synchronised(state.objective, state.step)
    norm = _gradient_norm(state)
    metrics = _reduce_metrics(state, batch, losses, norm, audit_metrics)
    if abs(metrics.mean_step - state.step) > 0.5 / world_size():
        raise RanksDiverged(f"ranks are at different steps, this one at {state.step}: restore all from one checkpoint")
    if metrics.bad_ranks:
        restore_buffers(state.objective, buffers)
        state.optimizer.zero_grad()
        raise_nonfinite(state, batch, loss=metrics.loss, grad_norm=metrics.grad_norm)
    state.notices = round(metrics.notices)
    rate = state.schedule(state.step)
    _update(state, rate, norm)
    return _plain_metrics(metrics, rate)


def _gradients(state: TrainState, batch: Batch, buffers: list[Tensor]) -> Losses:
    losses = backward(state, batch)
    if state.ddp_warmed_up:
        return losses
    _check_all_used(state.objective)
    state.ddp_warmed_up = True
    if world_size() <= 2:
        return losses
    # DDP rebuilds its buckets after the first backward of a process. With three or more ranks the order in which an
    # all-reduce adds depends on a gradient's position in its bucket, so the first step after a resume would differ in
    # the last bit from the same step of the uninterrupted run: repeat it with the final buckets.
    state.optimizer.zero_grad()
    restore_buffers(state.objective, buffers)
    return backward(state, batch)


def _check_all_used(objective: nn.Module) -> None:
    unused = [name for name, p in trainable(objective) if p.grad is None]
    if unused:
        raise ConfigError(
            f"{len(unused)} trainable parameters take no part in the loss, first {unused[0]!r}: "
            "freeze them (requires_grad_(False)) or leave them out"
        )


def _gradient_norm(state: TrainState) -> Tensor:
    """Return the L2 norm over all parameters; the same on all ranks, because DDP left the same gradients there."""
    gradients = [p.grad for _, p in trainable(state.objective) if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


@torch.no_grad()
def _reduce_metrics(
    state: TrainState, batch: Batch, losses: Losses, norm: Tensor, audit_metrics: dict[str, Tensor]
) -> StepMetrics:
    """Combine the ranks' values by one all-reduce of six numbers and one read by the host."""
    share = losses.sum.detach().double() / world_size()
    bad = ~(share.isfinite() & norm.isfinite())
    unreadable = (~batch.valid & (batch.row >= 0)).sum()
    step = torch.full_like(share, state.step / world_size())
    notice = torch.full_like(share, state.notice)
    to_reduce = torch.stack([share, bad.double(), batch.valid.sum().double(), unreadable.double(), step, notice])
    further = state.objective.metrics() | audit_metrics
    if state.space is not None and state.space.decision is not None:
        further |= state.space.decision.metrics()
    same_on_ranks = torch.stack([x.detach().double() for x in (state.clamps, norm, *further.values())])
    values = torch.cat([all_reduce_sum(to_reduce), same_on_ranks]).tolist()
    names = ("loss", "bad_ranks", "n_valid", "n_bad", "mean_step", "notices", "clamps", "grad_norm")
    further_values = dict(zip(further, values[len(names) :], strict=True))
    return StepMetrics(**dict(zip(names, values, strict=False)), further=further_values)


@torch.no_grad()
def _update(state: TrainState, rate: float, norm: Tensor) -> None:
    if state.max_grad_norm is not None:
        parameters = [p for _, p in trainable(state.objective)]
        torch.nn.utils.clip_grads_with_norm_(parameters, state.max_grad_norm, norm)
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad()
    _update_critics(state)
    state.clamps += state.objective.clamp_()
    state.step += 1


def _update_critics(state: TrainState) -> None:
    """Make the critics' extra updates at the same rate; all other parameters and their moments stay as they are."""
    with torch.enable_grad():
        for loss in state.objective.extra_critic_losses():
            torch.autograd.backward(loss)
            gradients = [p.grad for _, p in trainable(state.objective) if p.grad is not None]
            mean = all_reduce_sum(torch.cat([g.flatten() for g in gradients])) / world_size()
            parts = torch.split(mean, [g.numel() for g in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
            state.optimizer.step()
            state.optimizer.zero_grad()


def _plain_metrics(metrics: StepMetrics, rate: float) -> Metrics:
    return {
        "loss": metrics.loss,
        "lr": rate,
        "grad_norm": metrics.grad_norm,
        "n_valid": metrics.n_valid,
        "n_bad": metrics.n_bad,
        "clamps": metrics.clamps,
        **metrics.further,
    }
