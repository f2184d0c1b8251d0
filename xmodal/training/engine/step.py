"""One training step: a state and this rank's rows in, the moved state and plain figures out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.rank_consistency import RanksDiverged, check_same_weights, total
from xmodal.distributed.ranks import world_size
from xmodal.errors import ConfigError
from xmodal.gradients import check_synchronised, set_rate
from xmodal.training.engine.accumulation import backward, copy_buffers, restore_buffers
from xmodal.training.engine.finite_check import refuse
from xmodal.training.engine.optimizer import trainable
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import Losses

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the host learns of a step, by its single read from the device; alike on all ranks."""

    loss: float
    bad_ranks: float  # ranks that hold a non-finite loss or gradient
    n_valid: float
    n_bad: float
    mean_step: float  # over ranks
    clamps: float
    grad_norm: float
    own: dict[str, float]  # the objective's own: logit_scale, temperature


def train_step(state: TrainState, batch: Batch) -> Metrics:
    """Move the state by one update on the global batch of which `batch` is this rank's part (all ranks: equal sizes).

    `loss` is the mean over all valid rows; `grad_norm` is taken before clipping; `n_valid` and `n_bad` count rows of
    all ranks (padding is neither); `clamps` counts earlier steps that ended with the scale clamped. Raises
    NonFiniteLoss on every rank, with nothing moved, when any rank's loss or gradient is not finite; RanksDiverged when
    the ranks' weights or steps differ, and NeverSynchronised when their gradients do (both are looked at on the first
    step of a process and every `check_every` steps). With an `audit` its figures stand among the step's.
    """
    if not state.objective.training:  # an evaluation has come between
        state.objective.train()
    state.objective.at(state.step)
    due = state.step % state.check_every == 0 or not state.rehearsed
    if due:
        check_same_weights(state.objective, state.step, state.group)
    audited = state.audit(state, batch) if state.audit is not None else {}
    kept = copy_buffers(state.objective)
    losses = _gradients(state, batch, kept)
    if due:
        check_synchronised(state.objective, state.step, state.group)
    norm = _gradient_norm(state)
    seen = _agree(state, batch, losses, norm, audited)
    if abs(seen.mean_step - state.step) > 0.5 / world_size(state.group):
        raise RanksDiverged(f"ranks are at different steps, this one at {state.step}: restore all from one checkpoint")
    if seen.bad_ranks:
        restore_buffers(state.objective, kept)
        state.optimizer.zero_grad()
        refuse(state, batch, loss=seen.loss, grad_norm=seen.grad_norm)
    rate = state.schedule(state.step)
    _update(state, rate, norm)
    return _metrics(seen, rate)


def _gradients(state: TrainState, batch: Batch, kept: list[Tensor]) -> Losses:
    losses = backward(state, batch)
    if state.rehearsed:
        return losses
    _check_all_used(state.objective)
    state.rehearsed = True
    if world_size(state.group) <= 2:
        return losses
    # DDP lays its buckets out anew after the first backward of a process. With three ranks and more the order in
    # which an all-reduce adds depends on a gradient's place in its bucket, so the first step after a resume would
    # differ in the last bit from the same step of the uninterrupted run: take it again in the settled layout.
    state.optimizer.zero_grad()
    restore_buffers(state.objective, kept)
    return backward(state, batch)


def _check_all_used(objective: nn.Module) -> None:
    unused = [name for name, p in trainable(objective) if p.grad is None]
    if unused:
        raise ConfigError(
            f"{len(unused)} trainable parameters take no part in the loss, first {unused[0]!r}: "
            "freeze them (requires_grad_(False)) or leave them out"
        )


def _gradient_norm(state: TrainState) -> Tensor:
    """The L2 norm over all parameters; the same on all ranks, since DDP left the same gradients there."""
    gradients = [p.grad for _, p in trainable(state.objective) if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


@torch.no_grad()
def _agree(state: TrainState, batch: Batch, losses: Losses, norm: Tensor, audited: dict[str, Tensor]) -> Figures:
    """One all-reduce of five numbers and one read by the host decide for all ranks what happens next."""
    share = losses.sum.detach().double() / world_size(state.group)
    bad = ~(share.isfinite() & norm.isfinite())
    unreadable = (~batch.valid & (batch.row >= 0)).sum()
    step = torch.full_like(share, state.step / world_size(state.group))
    mine = torch.stack([share, bad.double(), batch.valid.sum().double(), unreadable.double(), step])
    own = state.objective.figures() | audited
    if state.space is not None and state.space.decision is not None:
        own |= state.space.decision.figures()
    alike = torch.stack([x.detach().double() for x in (state.clamps, norm, *own.values())])
    seen = torch.cat([total(mine, state.group), alike]).tolist()
    names = ("loss", "bad_ranks", "n_valid", "n_bad", "mean_step", "clamps", "grad_norm")
    return Figures(**dict(zip(names, seen, strict=False)), own=dict(zip(own, seen[len(names) :], strict=True)))


@torch.no_grad()
def _update(state: TrainState, rate: float, norm: Tensor) -> None:
    if state.max_grad_norm is not None:
        parameters = [p for _, p in trainable(state.objective)]
        torch.nn.utils.clip_grads_with_norm_(parameters, state.max_grad_norm, norm)
    set_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad()
    _update_further(state)
    state.clamps += state.objective.clamp_()
    state.step += 1


def _update_further(state: TrainState) -> None:
    """Updates of what the objective names alone, at the same rate; all other parameters and their moments stay."""
    with torch.enable_grad():
        for share in state.objective.afterwards():
            share.backward()
            found = [p.grad for _, p in trainable(state.objective) if p.grad is not None]
            mean = total(torch.cat([g.flatten() for g in found]), state.group) / world_size(state.group)
            for gradient, part in zip(found, mean.split([g.numel() for g in found]), strict=True):
                gradient.copy_(part.view_as(gradient))
            state.optimizer.step()
            state.optimizer.zero_grad()


def _metrics(seen: Figures, rate: float) -> Metrics:
    return {
        "loss": seen.loss,
        "lr": rate,
        "grad_norm": seen.grad_norm,
        "n_valid": seen.n_valid,
        "n_bad": seen.n_bad,
        "clamps": seen.clamps,
        **seen.own,
    }
