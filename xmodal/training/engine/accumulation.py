"""Computes the gradients of a batch in one pass, or in chunks with cached embeddings (GradCache, Gao et al. 2021).

A contrastive loss couples all rows, so the losses of chunks cannot simply be summed. Instead a first pass without graph
embeds all chunks, the loss of all rows of all ranks is computed once and differentiated with respect to the embeddings,
and a second pass propagates that gradient through the encoders, chunk by chunk. Only the activations of one chunk are
in memory at a time.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from xmodal.batch import Batch
from xmodal.distributed.synchrony import broadcast_buffers
from xmodal.gradients import ParameterSpace
from xmodal.training.engine.state import TrainState
from xmodal.training.objective import EmbeddingGradients, Embeddings, Losses, surrogate_loss


def backward(state: TrainState, batch: Batch) -> Losses:
    """Add the gradients of the global batch's losses to the `.grad` of every parameter, reduced over ranks.

    Returns this rank's share of the losses. All ranks must have the same number of rows.
    """
    rows = state.rows_per_forward
    if state.space is not None:
        return _backward_by_objective(state, state.space, batch)
    if rows is None or len(batch) <= rows:
        with state.randomness(chunk=0), state.autocast():
            losses: Losses = state.module(batch)
        torch.autograd.backward(losses.sum)
        return losses
    return _backward_in_chunks(state, batch, list(batch.chunks(rows)))


def _backward_in_chunks(state: TrainState, batch: Batch, chunks: list[Batch]) -> Losses:
    cached = _cache(state, chunks)
    losses = state.objective.loss(cached, batch)
    parameters = state.objective.loss_parameters()
    gradients = torch.autograd.grad(losses.sum, [*cached.values(), *parameters.values()], materialize_grads=True)
    row_gradients = dict(zip(cached, gradients, strict=False))
    parameter_gradients = dict(zip(parameters, gradients[len(cached) :], strict=True))
    start = 0
    for i, chunk in enumerate(chunks):
        last = i == len(chunks) - 1
        of_chunk = {name: g[start : start + len(chunk)] for name, g in row_gradients.items()}
        with _without_reduction(state) if not last else nullcontext():
            with state.randomness(chunk=i), state.autocast():
                chunk_gradients = EmbeddingGradients(of_chunk, parameter_gradients if last else None)
                surrogate = state.module(chunk, embedding_gradients=chunk_gradients)
            torch.autograd.backward(surrogate.sum)
        start += len(chunk)
    return losses


def _backward_by_objective(state: TrainState, space: ParameterSpace, batch: Batch) -> Losses:
    """Differentiate the multimodal and the unimodal losses separately, and weight them once for all chunks.

    The gradients of the domain losses are computed apart from both, and added after the weighting.
    """
    broadcast_buffers(state.objective)
    chunks = list(batch.chunks(state.rows_per_forward or len(batch)))
    if len(chunks) == 1:
        with state.randomness(chunk=0), state.autocast():
            losses: Losses = state.objective(batch)
        space.add(losses.by_objective, extra=losses.extra)
        space.decide()
        return losses
    losses, gradients = gradients_by_chunk(state, batch, chunks)
    parameters, count = state.objective.loss_parameters(), len(losses.by_objective)
    for i, (chunk, chunk_gradients) in enumerate(zip(chunks, gradients, strict=True)):
        with state.randomness(chunk=i), state.autocast():
            embeddings = state.objective.embed(chunk)
        surrogates = [surrogate_loss(embeddings, parameters, of_loss) for of_loss in chunk_gradients]
        extra = surrogates[count] if surrogates[count:] else None
        space.add(surrogates[:count], extra=extra, last=i == len(chunks) - 1)
    space.decide()
    return losses


def gradients_by_chunk(
    state: TrainState, batch: Batch, chunks: list[Batch]
) -> tuple[Losses, list[list[EmbeddingGradients]]]:
    """Return the losses of the whole batch, and for each chunk the gradient of each objective at its embeddings.

    The gradient of the extra losses, if there are any, follows those of the objectives. Only the last chunk has the
    gradients of the loss parameters.
    """
    cached, parameters = _cache(state, chunks), state.objective.loss_parameters()
    losses = state.objective.loss(cached, batch)
    inputs = [*cached.values(), *parameters.values()]
    gradients = [
        torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True, allow_unused=True)
        for loss in (*losses.by_objective, *([] if losses.extra is None else [losses.extra]))
    ]
    by_chunk: list[list[EmbeddingGradients]] = []
    start = 0
    for i, chunk in enumerate(chunks):
        stop, last = start + len(chunk), i == len(chunks) - 1
        of_rows = [{name: g[start:stop] for name, g in zip(cached, of_loss, strict=False)} for of_loss in gradients]
        of_parameters = [
            dict(zip(parameters, of_loss[len(cached) :], strict=True)) if last else None for of_loss in gradients
        ]
        by_chunk.append([EmbeddingGradients(*pair) for pair in zip(of_rows, of_parameters, strict=True)])
        start = stop
    return losses, by_chunk


def _cache(state: TrainState, chunks: list[Batch]) -> Embeddings:
    """Return the embeddings of all chunks as leaves of a new graph."""
    parts = list(embed_chunks(state, chunks))
    return {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}


@torch.no_grad()
def embed_chunks(state: TrainState, chunks: list[Batch]) -> list[Embeddings]:
    """Embed each chunk with the random numbers of its training forward; buffers stay as they are.

    Each chunk has its own autocast region: autocast caches the cast weights, and a weight that was cast under no_grad
    would have no gradient in a later forward.
    """
    parts = []
    with preserved_buffers(state.objective):
        for i, chunk in enumerate(chunks):
            with state.randomness(chunk=i), state.autocast():
                parts.append(state.objective.embed(chunk))
    return parts


def _without_reduction(state: TrainState) -> AbstractContextManager[None]:
    return state.ddp.no_sync() if state.ddp is not None else nullcontext()


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers (running statistics of batch norm) at the end of the block."""
    buffers = copy_buffers(module)
    try:
        yield
    finally:
        restore_buffers(module, buffers)


def copy_buffers(module: nn.Module) -> list[Tensor]:
    """Return a copy of each buffer, in the module's order."""
    return [b.detach().clone() for b in module.buffers()]


@torch.no_grad()
def restore_buffers(module: nn.Module, copies: list[Tensor]) -> None:
    """Set the buffers to what `copy_buffers` returned."""
    for buffer, value in zip(module.buffers(), copies, strict=True):
        buffer.copy_(value)
