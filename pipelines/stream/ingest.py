"""The deterministic stream: at every step, on every rank, its share of the global batch.

One Ray Dataset reads a *segment* of the plan, a run of steps that may span epochs. Rank 0 builds it and splits it;
Ray's splitter hands out equal blocks in order, round robin, so rank r gets blocks r, r + W, ... of the same sequence
for any number of workers W. Building and starting a Dataset takes seconds, so the next one is built while this one is
read, and starts to read when three quarters of this one's steps are delivered.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from pipelines.stream.source import Stream, dataset, from_table
from xmodal.batch import Batch
from xmodal.data.stream import blocks
from xmodal.streaming import batch_of_blocks

FIRST_SEGMENT_TASKS = 64
START_NEXT_AT = 0.75  # share of a segment's steps that are delivered when the next segment starts to read
CORPUS_SHIFT = 48  # a batch's row number is corpus index << 48 | row in the corpus: unique over a mixture


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of the global batch of one step."""

    batch: Batch
    faults: list[dict]  # the quarantine records of this share


def segments(streams: Sequence[Stream], start: int, stop: int, most_tasks: int) -> Iterator[tuple[int, int]]:
    """Cut steps [start, stop) into runs of at most about `most_tasks` read tasks of any one stream.

    Starting a Dataset costs seconds, so that small corpora must not pay it every epoch; its memory, and the time until
    it begins, grow with the number of its tasks, so that large ones must not have one for all. The first run is short,
    so that the first batch comes soon, and each is twice as long as the one before.
    """
    tasks = min(FIRST_SEGMENT_TASKS, most_tasks)
    while start < stop:
        end = min(start + min(max(1, tasks * s.plan.task_rows // s.plan.global_batch) for s in streams), stop)
        yield start, end
        start, tasks = end, min(2 * tasks, most_tasks)


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
    build = partial(_split, streams, world_size=world_size, reserved=reserved)
    runs = list(segments(streams, start, stop, most_tasks))
    pool = ThreadPoolExecutor(1 + len(streams), thread_name_prefix="xmodal-segment")
    begin = partial(_begin, streams=streams, rank=rank, world_size=world_size, share=share, pool=pool)
    try:
        parts = begin(pool.submit(build, *runs[0]) if rank == 0 and runs else None) if runs else []
        for (first, last), following in zip(runs, [*runs[1:], None], strict=True):
            building = pool.submit(build, *following) if rank == 0 and following else None
            upcoming: list[_RankBlocks] = []
            for step in range(first, last):
                if following and not upcoming and step >= first + (last - first) * START_NEXT_AT:
                    upcoming = begin(building)
                yield join([part.take_step() for part in parts], streams)
            for part in parts:
                part.check_ended()
            parts = upcoming
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _RankBlocks:
    """A rank's blocks of one stream in one segment, step by step; those of the first step are fetched at once."""

    def __init__(self, steps: Iterator[list[blocks.Block]], pool: ThreadPoolExecutor) -> None:
        self._steps = steps
        self._first: Future[list[blocks.Block]] | None = pool.submit(next, steps)

    def take_step(self) -> list[blocks.Block]:
        """Return the blocks of the next step."""
        if self._first is not None:
            first, self._first = self._first.result(), None
            return first
        return next(self._steps)

    def check_ended(self) -> None:
        """Raise AssertionError where the stream holds more rows than the plan."""
        assert next(self._steps, None) is None, "the stream held more rows than the plan"


def _begin(
    building: Future[Any] | None,
    *,
    streams: Sequence[Stream],
    rank: int,
    world_size: int,
    share: Callable[[Any], Any],
    pool: ThreadPoolExecutor,
) -> list[_RankBlocks]:
    """Give the splits that rank 0 builds to all ranks, and begin to read this rank's part of each stream."""
    splits = None if building is None else [ray.put(building.result())]  # a broadcast is meant for small values
    (shared,) = share(splits)
    parts = zip(ray.get(shared), streams, strict=True)
    return [_RankBlocks(_step_blocks(split[rank], stream, world_size), pool) for split, stream in parts]


def _split(
    streams: Sequence[Stream], first: int, last: int, *, world_size: int, reserved: dict[str, float]
) -> list[list[ray.data.DataIterator]]:
    """For every stream, one iterator for every rank."""
    datasets = [dataset(stream, first, last, world_size, reserved) for stream in streams]
    return [d.streaming_split(world_size, equal=True) for d in datasets]


def _step_blocks(split: ray.data.DataIterator, stream: Stream, world_size: int) -> Iterator[list[blocks.Block]]:
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
