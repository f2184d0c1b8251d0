"""The deterministic stream: at every step, on every rank, its share of the global batch.

One Ray Dataset reads a *segment* of the plan, a run of steps that may span epochs. Rank 0 builds it and splits it;
Ray's splitter hands out equal blocks in order, round robin, so rank r gets blocks r, r + W, ... of the same sequence
for any number of workers W.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch

from pipelines.stream.source import Stream, dataset, from_table
from xmodal.batch import Batch
from xmodal.data.decode.fields import Column
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import Recipe

CORPUS_SHIFT = 48  # a batch's row number is corpus index << 48 | row in the corpus: unique over a mixture


@dataclass(frozen=True)
class Delivery:
    """One step's share of one rank."""

    batch: Batch
    faults: list[dict]  # the quarantine records of this share
    waited_s: float  # how long the rank waited for the data


def segments(streams: Sequence[Stream], start: int, stop: int, most_tasks: int) -> Iterator[tuple[int, int]]:
    """Cut steps [start, stop) into runs of at most about `most_tasks` read tasks of any one stream.

    Starting a Dataset costs seconds, so that small corpora must not pay it every epoch; its memory grows with the
    number of its tasks, so that large ones must not have one for all.
    """
    steps = min(max(1, most_tasks * s.plan.task_rows // s.plan.global_batch) for s in streams)
    while start < stop:
        end = min(start + steps, stop)
        yield start, end
        start = end


def deliver(
    streams: Sequence[Stream],
    start: int,
    stop: int,
    *,
    rank: int,
    world_size: int,
    share: Callable[[Any], Any],
    reserved: dict[str, float],
    most_tasks: int = 4096,
) -> Iterator[Delivery]:
    """This rank's share of steps `start` to `stop` - 1, in order.

    `share(value)` returns rank 0's value on every rank (a collective); `reserved` as in `dataset`. The shares of all
    streams are joined into one batch, in the order of the streams, whose roles are the batch's `parts`: streams of
    one role stand side by side.
    """
    for first, last in segments(streams, start, stop, most_tasks):
        splits = [ray.put(_split(streams, first, last, world_size, reserved))] if rank == 0 else None
        (shared,) = share(splits)  # a reference inside a list: a broadcast is meant for small values
        parts = [
            _rank_blocks(split[rank], stream, world_size)
            for split, stream in zip(ray.get(shared), streams, strict=True)
        ]
        for _ in range(first, last):
            started = time.perf_counter()
            blocks_of_step = [next(part) for part in parts]
            waited_s = time.perf_counter() - started
            yield join(blocks_of_step, streams, waited_s)
        for part in parts:
            assert next(part, None) is None, "the stream held more rows than the plan"


def _split(
    streams: Sequence[Stream], first: int, last: int, world_size: int, reserved: dict[str, float]
) -> list[list[ray.data.DataIterator]]:
    """For every stream, one iterator for every rank."""
    datasets = [dataset(stream, first, last, world_size, reserved) for stream in streams]
    return [d.streaming_split(world_size, equal=True) for d in datasets]


def _rank_blocks(split: ray.data.DataIterator, stream: Stream, world_size: int) -> Iterator[list[blocks.Block]]:
    """The blocks of one rank, step by step."""
    rows = stream.plan.global_batch // world_size
    gathered: list[blocks.Block] = []
    for table in split.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):  # type: ignore[arg-type]
        for block in from_table(table, stream.recipe.columns):
            if len(block["row"]) != stream.block_rows(world_size):
                raise RuntimeError(
                    f"Ray Data re-cut a block: {len(block['row'])} rows instead of {stream.block_rows(world_size)}; "
                    "the order of the stream is lost"
                )
            gathered.append(block)
        if sum(len(block["row"]) for block in gathered) == rows:
            yield gathered
            gathered = []


def join(parts: Sequence[list[blocks.Block]], streams: Sequence[Stream], waited_s: float) -> Delivery:
    """One batch from the blocks of one step: the only copy between the object store and the device."""
    columns = {name: column for stream in streams for name, column in stream.recipe.columns.items()}
    batch = _batch([block for part in parts for block in part], columns)
    roles: dict[str, int] = {}
    offset = 0
    faults = []
    for part, stream in zip(parts, streams, strict=True):
        rows = sum(len(block["row"]) for block in part)
        own = batch.row[offset : offset + rows]
        own[own >= 0] |= stream.number << CORPUS_SHIFT
        offset += rows
        roles[stream.role] = roles.get(stream.role, 0) + rows
        faults += [{**fault, "corpus": stream.number} for block in part for fault in blocks.faults(block)]
    return Delivery(replace(batch, parts=roles), faults, waited_s)


def to_batch(parts: Sequence[blocks.Block], recipe: Recipe) -> Batch:
    """Blocks of one recipe joined into a batch of tensors of their own."""
    return _batch(parts, recipe.columns)


def _batch(parts: Sequence[blocks.Block], columns: dict[str, Column]) -> Batch:
    """The same of several recipes: zeros where a block lacks a column of another one's."""
    joined = {
        name: _concatenate([block.get(name) for block in parts], [len(block["row"]) for block in parts], column)
        for name, column in columns.items()
        if name not in ("fault", "epoch")
    }
    return Batch(joined.pop("row"), joined.pop("valid"), joined)


def _concatenate(arrays: Sequence[np.ndarray | None], rows: Sequence[int], column: Column) -> torch.Tensor:
    dtype = getattr(torch, column.dtype)
    joined = torch.empty((sum(rows), *column.shape), dtype=dtype, pin_memory=torch.cuda.is_available())
    out, start = joined.numpy(), 0
    for array, length in zip(arrays, rows, strict=True):
        out[start : start + length] = 0 if array is None else array
        start += length
    return joined
