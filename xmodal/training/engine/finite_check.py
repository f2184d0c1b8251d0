"""The refusal of a step whose loss or gradient is not finite: a state and its batch in, NonFiniteLoss out."""

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

SHOWN = 20  # rows named for each rank


def refuse(state: TrainState, batch: Batch, *, loss: float, grad_norm: float) -> NoReturn:
    """Raise NonFiniteLoss on every rank with the same message; all ranks must call it for the same step.

    Embeds the batch once more, with the randomness of the refused step, to find the rows to blame.
    """
    broken_weight = next((name for name, p in trainable(state.objective) if not p.isfinite().all()), None)
    rows = gather_ragged(suspect_rows(state, batch), state.group)
    raise NonFiniteLoss(
        f"step {state.step}: the loss is {loss:g} and the gradient norm {grad_norm:g}; "
        f"no optimizer moved on any rank. {_blame(rows, broken_weight)}"
    )


def suspect_rows(state: TrainState, batch: Batch) -> Int64[Tensor, "n"]:
    """Row numbers of this rank whose inputs or embeddings are not finite."""
    size = state.rows_per_forward or len(batch)
    chunks = list(batch.chunks(size))
    bad = torch.zeros_like(batch.valid)
    for column in batch.fields.values():
        if column.is_floating_point():
            bad |= _broken(column)
    for i, part in enumerate(embed_chunks(state, chunks)):
        for z in part.values():
            bad[i * size :][: len(z)] |= _broken(z)
    return batch.row[bad]


def _broken(x: Tensor) -> Bool[Tensor, "B"]:
    return ~x.isfinite().flatten(1).all(dim=1) if x.ndim > 1 else ~x.isfinite()


def _blame(rows: Sequence[Sequence[int]], broken_weight: str | None) -> str:
    if broken_weight is not None:
        return (
            f"Parameter {broken_weight!r} itself is not finite: "
            "resume from an earlier checkpoint with a lower learning rate"
        )
    named = [f"rank {r}: {_few(found)}" for r, found in enumerate(rows) if found]
    if not named:
        return (
            "No single row is to blame (all inputs and embeddings are finite): "
            "lower the learning rate, or train in fp32"
        )
    return f"Rows with non-finite inputs or embeddings: {'; '.join(named)}. Look at them in the corpus"


def _few(rows: Sequence[int]) -> str:
    names = ["padding" if row < 0 else str(row) for row in rows[:SHOWN]]
    return ", ".join(names) + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
