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
from xmodal.data.formats.extent_store import ExtentStore
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
    first_rows: np.ndarray  # int64: for each slice, or each extent of the picks, the number of its first row
    read_task: ReadTask
    rows_per_block: int

    def row_numbers(self) -> np.ndarray:
        """Return the number in the whole corpus of each of the task's rows, along its slices or picks; -1: padding."""
        picks = self.read_task.picks
        if picks is not None:
            return np.where(picks[:, 0] < 0, -1, self.first_rows[picks[:, 0]] + picks[:, 1])
        pieces = zip(self.first_rows, self.read_task.slices, strict=True)
        return np.concatenate([np.empty(0, np.int64), *(f + p.first + np.arange(p.rows) for f, p in pieces)])


def block_tasks(
    corpus: Corpus, plan: StreamPlan, start_step: int, stop_step: int, rows_per_block: int
) -> Iterator[BlockTask]:
    """Yield the tasks of steps `start_step` to `stop_step` - 1, each of which can run on its own."""
    for task in plan.tasks(start_step, stop_step):
        if task.picks is None:
            extents = np.array([piece.extent for piece in task.slices], dtype=np.int64)
            renumbered = replace(task, slices=tuple(replace(piece, extent=i) for i, piece in enumerate(task.slices)))
        else:
            real = task.picks[:, 0] >= 0
            extents, number = np.unique(task.picks[real, 0], return_inverse=True)
            picks = task.picks.copy()
            picks[real, 0] = number
            renumbered = replace(task, picks=picks)
        yield BlockTask(subset_corpus(corpus, extents), corpus.row_start[extents], renumbered, rows_per_block)


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
    store: ExtentStore | None = None,
    new_block: Callable[[RowDecoder, int], Block] | None = None,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[Block]:
    """Read, decode and yield the task's blocks; a row that cannot be decoded is masked and raises no exception.

    `new_block` provides the memory; by default every block has memory of its own. Blocks whose position `wanted`
    rejects are neither decoded nor yielded. Rows of a widely shuffled task come from the `store`; without one each of
    its extents is read whole for the few rows of this task. Raises only for errors of storage itself.
    """
    allocate = new_block or allocate_block
    read_task = task.read_task
    starts = range(read_task.skip, read_task.stop, task.rows_per_block)
    chosen = [start for start in starts if wanted is None or wanted(start)]
    numbers, order = task.row_numbers(), read_task.permutation()
    members = tuple(sorted(decoder.field_map.members))
    samples = (
        _samples_of_slices(task, members)
        if read_task.picks is None
        else _samples_of_picks(task, members, store, chosen)
    )
    row_random = RowRandom(read_task.seed, read_task.epoch)
    for start in chosen:
        positions = order[start : start + task.rows_per_block]
        block = allocate(decoder, len(positions))
        block["epoch"][:] = read_task.epoch
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


def _samples_of_picks(
    task: BlockTask, members: tuple[str, ...], store: ExtentStore | None, chosen: Sequence[int]
) -> list[RawSample | None]:
    """Return the samples of the blocks that begin at the positions `chosen`, in order; None elsewhere."""
    picks = task.read_task.picks
    assert picks is not None
    samples: list[RawSample | None] = [None] * len(picks)
    asked = np.zeros(len(picks), bool)
    for start in chosen:
        asked[start : start + task.rows_per_block] = True
    positions = np.flatnonzero(asked & (picks[:, 0] >= 0))
    positions = positions[np.argsort(picks[positions, 0], kind="stable")]
    by_extent = np.split(positions, np.flatnonzero(np.diff(picks[positions, 0])) + 1) if len(positions) else []

    def read(of_extent: np.ndarray) -> list[RawSample]:
        extent, rows = int(picks[of_extent[0], 0]), picks[of_extent, 1].tolist()
        if store is not None:
            return store.read_rows(task.corpus, extent, rows, members)
        whole = read_extent(task.corpus, extent, columns=members)
        return [whole[row] for row in rows]

    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        for of_extent, found in zip(by_extent, pool.map(read, by_extent), strict=True):
            for position, sample in zip(of_extent, found, strict=True):
                samples[position] = sample
    return samples


def _samples_of_slices(task: BlockTask, members: tuple[str, ...]) -> list[RawSample | None]:
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
