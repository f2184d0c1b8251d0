"""The error of a step whose loss or gradient is not finite, with the rows that caused it."""

from collections.abc import Sequence
from typing import NoReturn

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from xmodal.batch import Batch
from xmodal.distributed.rank_consistency import gather_ragged
from xmodal.errors import NonFiniteLoss
from xmodal.training.engine.accumulation import embed_chunks
from xmodal.training.engine.optimizer import trainable
from xmodal.training.engine.state import TrainState

MAX_ROWS_NAMED = 20  # for each rank


def raise_nonfinite(state: TrainState, batch: Batch, *, loss: float, grad_norm: float) -> NoReturn:
    """Raise NonFiniteLoss with the same message on every rank; all ranks must call it for the same step.

    Embeds the batch again, with the random numbers of the failed step, to find the rows that caused it.
    """
    bad_parameter = next((name for name, p in trainable(state.objective) if not p.isfinite().all()), None)
    rows = gather_ragged(nonfinite_rows(state, batch))
    raise NonFiniteLoss(
        f"step {state.step}: the loss is {loss:g} and the gradient norm {grad_norm:g}; "
        f"no optimizer moved on any rank. {_explain(rows, bad_parameter)}"
    )


def nonfinite_rows(state: TrainState, batch: Batch) -> Int64[Tensor, "n"]:
    """Return the numbers of this rank's rows whose inputs or embeddings are not finite."""
    size = state.rows_per_forward or len(batch)
    chunks = list(batch.chunks(size))
    bad = torch.zeros_like(batch.valid)
    for column in batch.fields.values():
        if column.is_floating_point():
            bad |= _not_finite(column)
    for i, embeddings in enumerate(embed_chunks(state, chunks)):
        for z in embeddings.values():
            bad[i * size :][: len(z)] |= _not_finite(z)
    return batch.row[bad]


def _not_finite(x: Tensor) -> Bool[Tensor, "B"]:
    return ~x.isfinite().flatten(1).all(dim=1) if x.ndim > 1 else ~x.isfinite()


def _explain(rows: Sequence[Sequence[int]], bad_parameter: str | None) -> str:
    if bad_parameter is not None:
        return (
            f"Parameter {bad_parameter!r} itself is not finite: "
            "resume from an earlier checkpoint with a lower learning rate"
        )
    by_rank = [f"rank {rank}: {_row_list(rank_rows)}" for rank, rank_rows in enumerate(rows) if rank_rows]
    if not by_rank:
        return (
            "No single row is to blame (all inputs and embeddings are finite): "
            "lower the learning rate, or train in fp32"
        )
    return f"Rows with non-finite inputs or embeddings: {'; '.join(by_rank)}. Look at them in the corpus"


def _row_list(rows: Sequence[int]) -> str:
    names = ["padding" if row < 0 else str(row) for row in rows[:MAX_ROWS_NAMED]]
    return ", ".join(names) + (f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else "")
