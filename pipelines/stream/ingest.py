"""The deterministic stream: at every step, on every rank, its share of the global batch.

One Ray Dataset reads a *segment* of the plan, a run of steps that may span epochs. Rank 0 builds it and splits it;
Ray's splitter hands out equal blocks in order, round robin, so rank r gets blocks r, r + W, ... of the same sequence
for any number of workers W.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from pipelines.stream.source import Stream, dataset, from_table
from xmodal.batch import Batch
from xmodal.data.stream import blocks
from xmodal.streaming import batch_of_blocks

CORPUS_SHIFT = 48  # a batch's row number is corpus index << 48 | row in the corpus: unique over a mixture


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of the global batch of one step."""

    batch: Batch
    faults: list[dict]  # the quarantine records of this share


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


def step_batches(
    streams: Sequence[Stream],
    start: int,
    stop: int,
    *,
    rank: int,
    world_size: int,
    share: Callable[[Any], Any],
    reserved: dict[str, float],
    most_tasks: int = 4096,
) -> Iterator[StepBatch]:
    """Yield this rank's share of steps `start` to `stop` - 1, in order.

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
            yield join([next(part) for part in parts], streams)
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
        for block in from_table(table, stream.decoder.columns):
            if len(block["row"]) != stream.block_rows(world_size):
                raise RuntimeError(
                    f"Ray Data re-cut a block: {len(block['row'])} rows instead of {stream.block_rows(world_size)}; "
                    "the order of the stream is lost"
                )
            gathered.append(block)
        if sum(len(block["row"]) for block in gathered) == rows:
            yield gathered
            gathered = []


def join(parts: Sequence[list[blocks.Block]], streams: Sequence[Stream]) -> StepBatch:
    """One batch from the blocks of one step: the only copy between the object store and the device."""
    columns = {name: column for stream in streams for name, column in stream.decoder.columns.items()}
    batch = batch_of_blocks([block for part in parts for block in part], columns)
    roles: dict[str, int] = {}
    offset = 0
    faults = []
    for part, stream in zip(parts, streams, strict=True):
        rows = sum(len(block["row"]) for block in part)
        numbers = batch.row[offset : offset + rows]  # a view: -1 where the row is padding
        numbers[numbers >= 0] |= stream.number << CORPUS_SHIFT
        offset += rows
        roles[stream.role] = roles.get(stream.role, 0) + rows
        faults += [{**fault, "corpus": stream.number} for block in part for fault in blocks.block_faults(block)]
    return StepBatch(replace(batch, role_sizes=roles), faults)
