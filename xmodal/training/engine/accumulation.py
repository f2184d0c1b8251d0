"""From a batch to gradients: in one piece, or in chunks with cached embeddings (GradCache, Gao et al. 2021).

A contrastive loss couples all rows, so chunks cannot simply be summed. Their embeddings can: a first pass without
graph embeds all chunks, the loss is taken once over all rows of all ranks and differentiated at the embeddings, and a
second pass pulls that gradient through each chunk's encoders. Memory holds one chunk's activations.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.gradients import ParameterSpace, follow_first_rank
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import Cotangents, Embeddings, Losses, pull_back


def backward(state: TrainState, batch: Batch) -> Losses:
    """Add the gradients of the global batch's losses to every parameter's `.grad`, reduced over ranks.

    Returns this rank's share of the losses, detached. All ranks must bring the same number of rows.
    """
    rows = state.rows_per_forward
    if state.space is not None:
        return _apart(state, state.space, batch)
    if rows is None or len(batch) <= rows:
        with state.randomness(chunk=0), state.autocast():
            losses = state.module(batch)
        losses.sum.backward()
        return losses
    return _in_chunks(state, batch, list(batch.chunks(rows)))


def _in_chunks(state: TrainState, batch: Batch, chunks: list[Batch]) -> Losses:
    cached = _cache(state, chunks)
    losses = state.objective.loss(cached, batch)
    weights = state.objective.weights()
    gradients = torch.autograd.grad(losses.sum, [*cached.values(), *weights.values()], materialize_grads=True)
    rows = dict(zip(cached, gradients, strict=False))
    at_weights = dict(zip(weights, gradients[len(cached) :], strict=True))
    start = 0
    for i, chunk in enumerate(chunks):
        last = i == len(chunks) - 1
        here = {name: g[start : start + len(chunk)] for name, g in rows.items()}
        with _unreduced(state) if not last else nullcontext():
            with state.randomness(chunk=i), state.autocast():
                pulled = state.module(chunk, cotangents=Cotangents(here, at_weights if last else None))
            pulled.sum.backward()
        start += len(chunk)
    return losses


def _apart(state: TrainState, space: ParameterSpace, batch: Batch) -> Losses:
    """The multimodal and the unimodal losses differentiated one after the other, decided on once for all chunks.

    The domain losses are differentiated apart from both, and added after the decision.
    """
    follow_first_rank(state.objective, state.group)
    chunks = list(batch.chunks(state.rows_per_forward or len(batch)))
    if len(chunks) == 1:
        with state.randomness(chunk=0), state.autocast():
            losses = state.objective(batch)
        space.add(losses.by_objective, extra=losses.extra)
        space.decide()
        return losses
    losses, sides = by_chunk(state, batch, chunks)
    weights, count = state.objective.weights(), len(losses.by_objective)
    for i, (chunk, side) in enumerate(zip(chunks, sides, strict=True)):
        with state.randomness(chunk=i), state.autocast():
            embeddings = state.objective.embed(chunk)
        pulled = [pull_back(embeddings, weights, rows) for rows in side]
        space.add(pulled[:count], extra=pulled[count] if pulled[count:] else None, last=i == len(chunks) - 1)
    space.decide()
    return losses


def by_chunk(state: TrainState, batch: Batch, chunks: list[Batch]) -> tuple[Losses, list[list[Cotangents]]]:
    """The losses of the whole batch, and for each chunk the gradient of each objective at its embeddings.

    Behind the objectives stands the extra one, where there is any. The last chunk has the gradients at the weights.
    """
    cached, weights = _cache(state, chunks), state.objective.weights()
    losses = state.objective.loss(cached, batch)
    inputs = [*cached.values(), *weights.values()]
    sides = [
        torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True, allow_unused=True)
        for loss in (*losses.by_objective, *([] if losses.extra is None else [losses.extra]))
    ]
    found, start = [], 0
    for i, chunk in enumerate(chunks):
        stop, last = start + len(chunk), i == len(chunks) - 1
        here = [{name: g[start:stop] for name, g in zip(cached, side, strict=False)} for side in sides]
        of_weights = [dict(zip(weights, side[len(cached) :], strict=True)) if last else None for side in sides]
        found.append([Cotangents(*both) for both in zip(here, of_weights, strict=True)])
        start = stop
    return losses, found


def _cache(state: TrainState, chunks: list[Batch]) -> Embeddings:
    """Embeddings of all chunks as leaves of a new graph."""
    parts = list(embed_chunks(state, chunks))
    return {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}


@torch.no_grad()
def embed_chunks(state: TrainState, chunks: list[Batch]) -> list[Embeddings]:
    """Each chunk's embeddings, drawn with the same randomness as its training forward; leaves buffers untouched.

    An own autocast region for each: a weight cast under no_grad and kept for a later forward would lose its gradient.
    """
    parts = []
    with kept_buffers(state.objective):
        for i, chunk in enumerate(chunks):
            with state.randomness(chunk=i), state.autocast():
                parts.append(state.objective.embed(chunk))
    return parts


def _unreduced(state: TrainState) -> AbstractContextManager[None]:
    return state.ddp.no_sync() if state.ddp is not None else nullcontext()


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Buffers (running statistics of batch norm) are afterwards what they were before."""
    kept = copy_buffers(module)
    try:
        yield
    finally:
        restore_buffers(module, kept)


def copy_buffers(module: nn.Module) -> list[Tensor]:
    """A copy of each buffer, in the module's order."""
    return [b.detach().clone() for b in module.buffers()]


@torch.no_grad()
def restore_buffers(module: nn.Module, kept: list[Tensor]) -> None:
    """Undo what a forward did to the buffers since `copy_buffers`."""
    for buffer, value in zip(module.buffers(), kept, strict=True):
        buffer.copy_(value)
