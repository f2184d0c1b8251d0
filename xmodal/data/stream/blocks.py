"""Read and decode the rows of one read task as blocks of a fixed number of rows.

A *block* is a dict of numpy arrays with R rows: `row` int64 (the row's number in the corpus, -1 for padding), `valid`
bool, `epoch` int32, `fault` uint8 [R, FAULT_BYTES] (zeros, or why the row is masked, as JSON), and the columns of every
field. All shapes are fixed, and so is a block's size in bytes: the stream relies on it to keep blocks whole.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Column, Field, FieldMap, row_views
from xmodal.data.index.corpus import Corpus, RawSample, read_extent
from xmodal.data.stream.order import ReadTask, RowRandom, StreamPlan
from xmodal.errors import BadSample

Block = dict[str, np.ndarray]

FAULT_BYTES = 640  # room for a key of 255 bytes, an offset, a field, a reason and the start of a detail
PARALLEL_READS = 4  # extents of a task fetched at once, to hide the latency of an object store


@dataclass(frozen=True, eq=False)
class RowDecoder:
    """How samples of a corpus become rows of a block: where each field is found, and what decodes it."""

    field_map: FieldMap
    fields: tuple[Field, ...]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every column of a block, in a fixed order."""
        fixed = {
            "row": Column(dtype="int64", shape=()),
            "valid": Column(dtype="bool", shape=()),
            "epoch": Column(dtype="int32", shape=()),
            "fault": Column(dtype="uint8", shape=(FAULT_BYTES,)),
        }
        return fixed | {name: column for field in self.fields for name, column in field.columns.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a block."""
        sizes = (np.dtype(c.dtype).itemsize * int(np.prod(c.shape, dtype=np.int64)) for c in self.columns.values())
        return sum(sizes)


@dataclass(frozen=True, eq=False)
class BlockTask:
    """A read task with the part of the corpus that it reads: small enough to send to a worker, whatever the corpus."""

    corpus: Corpus
    first_rows: tuple[int, ...]  # for each slice, the number in the whole corpus of its extent's first row
    read_task: ReadTask
    rows_per_block: int


def block_tasks(
    corpus: Corpus, plan: StreamPlan, start_step: int, stop_step: int, rows_per_block: int
) -> Iterator[BlockTask]:
    """Yield the tasks of steps `start_step` to `stop_step` - 1, each of which can run on its own."""
    for task in plan.tasks(start_step, stop_step):
        extents = np.array([piece.extent for piece in task.slices], dtype=np.int64)
        slices = tuple(replace(piece, extent=i) for i, piece in enumerate(task.slices))
        first_rows = tuple(int(row) for row in corpus.row_start[extents])
        yield BlockTask(subset_corpus(corpus, extents), first_rows, replace(task, slices=slices), rows_per_block)


def subset_corpus(corpus: Corpus, extents: np.ndarray) -> Corpus:
    """Return the corpus with only these extents (renumbered 0, 1, ...) and their shards."""
    chosen = corpus.extents.take(extents)
    shards, shard = np.unique(chosen.shard, return_inverse=True)
    renumbered = replace(chosen, shard=shard.astype(np.int32))
    return replace(corpus, shards=tuple(corpus.shards[i] for i in shards), extents=renumbered, damage=(), ignored=())


def read_blocks(
    task: BlockTask,
    decoder: RowDecoder,
    *,
    new_block: Callable[[RowDecoder, int], Block] | None = None,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[Block]:
    """Read, decode and yield the task's blocks; a row that cannot be decoded is masked and raises no exception.

    `new_block` returns the arrays of a block, with any content (default `allocate_block`). `wanted` chooses blocks by
    their first row's position in the task; the others are not decoded. Raises `StorageError` when storage itself
    fails; the task may then be run again and gives the same blocks.
    """
    allocate = new_block or allocate_block
    samples = _samples(task, tuple(sorted(decoder.field_map.members)))
    pieces = zip(task.first_rows, task.read_task.slices, strict=True)
    numbers = np.concatenate(
        [first + piece.first + np.arange(piece.rows) for first, piece in pieces] or [np.empty(0, np.int64)]
    )
    order = task.read_task.permutation()
    row_random = RowRandom(task.read_task.seed, task.read_task.epoch)
    for start in range(task.read_task.skip, task.read_task.stop, task.rows_per_block):
        if wanted is not None and not wanted(start):
            continue
        positions = order[start : start + task.rows_per_block]
        block = allocate(decoder, len(positions))
        block["epoch"][:] = task.read_task.epoch
        block["fault"][:] = 0
        block["row"][:] = np.where(positions < 0, -1, numbers[positions] if len(numbers) else -1)
        for slot, position in enumerate(positions):
            sample = samples[position] if position >= 0 else None
            block["valid"][slot] = sample is not None and _decode_row(sample, decoder, block, slot, row_random)
            if not block["valid"][slot]:
                _blank(decoder, block, slot)
            if sample is not None:
                samples[position] = None  # its bytes are not needed again
        yield block


def allocate_block(decoder: RowDecoder, rows: int) -> Block:
    """Return uninitialised arrays for the columns of a block."""
    return {name: np.empty((rows, *c.shape), c.dtype) for name, c in decoder.columns.items()}


def _samples(task: BlockTask, members: tuple[str, ...]) -> list[RawSample | None]:
    """Return the samples of all slices, in order."""
    slices = task.read_task.slices
    if not slices:
        return []
    with ThreadPoolExecutor(min(PARALLEL_READS, len(slices))) as pool:
        extents = pool.map(lambda piece: read_extent(task.corpus, piece.extent, columns=members), slices)
        pairs = zip(slices, extents, strict=True)
        return [s for piece, samples in pairs for s in samples[piece.first : piece.first + piece.rows]]


def _decode_row(sample: RawSample, decoder: RowDecoder, block: Block, slot: int, random: RowRandom) -> bool:
    """Decode every field of one sample into row `slot`; where that fails, record the fault and return False."""
    field_name = ""
    try:
        if sample.fault is not None:
            raise sample.fault
        rng = random(int(block["row"][slot]))
        out = row_views(block, slot)
        for field in decoder.fields:
            field_name = field.name
            field.decode(_raw(field, decoder, sample.members or {}), rng, out)
    except BadSample as fault:
        block["fault"][slot] = encode_fault(sample.key, sample.offset, field_name, fault)
        return False
    return True


def _raw(field: Field, decoder: RowDecoder, members: Mapping[str, object]) -> object:
    """Return the raw value of a field; None where the sample lacks an optional one."""
    try:
        return decoder.field_map.pick(field.name, members)
    except BadSample as fault:
        if fault.reason == "missing_member" and getattr(field, "optional", False):
            return None
        raise


def _blank(decoder: RowDecoder, block: Block, slot: int) -> None:
    """Set the fields of a masked row to zero: some may have been written before another one failed."""
    for field in decoder.fields:
        for column in field.columns:
            block[column][slot] = 0


def encode_fault(key: str, offset: int, field: str, fault: BadSample) -> np.ndarray:
    """Return a fault as uint8 [FAULT_BYTES]: JSON, with detail and key shortened until it fits."""
    record = {"key": key, "offset": offset, "field": field, "reason": fault.reason, "detail": fault.detail[:200]}
    data = json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace")
    while len(data) > FAULT_BYTES:
        longest = max(("detail", "key"), key=lambda name: len(str(record[name])))
        record[longest] = str(record[longest])[: len(str(record[longest])) // 2]
        data = json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace")
    return np.frombuffer(data.ljust(FAULT_BYTES, b"\0"), np.uint8)


def decode_fault(fault: np.ndarray) -> dict[str, object] | None:
    """Return the record of a masked row (key, offset, field, reason, detail); None for a valid row or padding."""
    data = fault.tobytes().rstrip(b"\0")
    record: dict[str, Any] | None = json.loads(data) if data else None
    return record


def block_faults(block: Block) -> list[dict[str, object]]:
    """Return the quarantine records of a block, with `row` and `epoch`."""
    rows: Sequence[int] = np.flatnonzero(~block["valid"] & (block["row"] >= 0)).tolist()
    return [
        {**(decode_fault(block["fault"][i]) or {}), "row": int(block["row"][i]), "epoch": int(block["epoch"][i])}
        for i in rows
    ]
