"""One read task -> decoded blocks of a fixed number of rows: reading, choosing, decoding and masking in one place.

A *block* is a dict of numpy arrays with R rows: `row` int64 (the row's number in the corpus, -1 for padding), `valid`
bool, `epoch` int32, `fault` uint8 [R, FAULT_BYTES] (zeros, or why the row is masked, as JSON), and the columns of every
field. All shapes are fixed, so a block's size in bytes is fixed too: the stream relies on it to keep blocks whole.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from xmodal.data.decode.fields import Column, Field, FieldMap, row_of
from xmodal.data.index.corpus import Corpus, RawSample, read_extent
from xmodal.data.stream.order import Plan, RowRandom, Task
from xmodal.errors import BadSample

Block = dict[str, np.ndarray]

FAULT_BYTES = 640  # room for a key of 255 bytes, an offset, a field, a reason and the start of a detail
PARALLEL_READS = 4  # extents of a task fetched at once: hides the latency of an object store


@dataclass(frozen=True, eq=False)
class Recipe:
    """How samples of a corpus become rows: where each field is found, and what decodes it."""

    field_map: FieldMap
    fields: tuple[Field, ...]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every column of a block, in a fixed order."""
        own = {
            "row": Column(dtype="int64", shape=()),
            "valid": Column(dtype="bool", shape=()),
            "epoch": Column(dtype="int32", shape=()),
            "fault": Column(dtype="uint8", shape=(FAULT_BYTES,)),
        }
        return own | {name: column for field in self.fields for name, column in field.columns.items()}

    @property
    def row_bytes(self) -> int:
        sizes = (np.dtype(c.dtype).itemsize * int(np.prod(c.shape, dtype=np.int64)) for c in self.columns.values())
        return sum(sizes)


@dataclass(frozen=True, eq=False)
class ReadTask:
    """A task with just the part of the corpus that it reads: small enough to travel, whatever the corpus."""

    corpus: Corpus
    first_rows: tuple[int, ...]  # for each part, the number in the whole corpus of the extent's first row
    task: Task
    rows_per_block: int


def read_tasks(corpus: Corpus, plan: Plan, start_step: int, stop_step: int, rows_per_block: int) -> Iterator[ReadTask]:
    """The read tasks of steps `start_step` to `stop_step` - 1, each able to run on its own."""
    for task in plan.tasks(start_step, stop_step):
        extents = np.array([part.extent for part in task.parts], dtype=np.int64)
        parts = tuple(replace(part, extent=i) for i, part in enumerate(task.parts))
        first_rows = tuple(int(row) for row in corpus.row_start[extents])
        yield ReadTask(take(corpus, extents), first_rows, replace(task, parts=parts), rows_per_block)


def take(corpus: Corpus, extents: np.ndarray) -> Corpus:
    """The same corpus with only these extents (renumbered 0, 1, ...) and their shards."""
    chosen = corpus.extents.take(extents)
    shards, shard = np.unique(chosen.shard, return_inverse=True)
    renumbered = replace(chosen, shard=shard.astype(np.int32))
    return replace(corpus, shards=tuple(corpus.shards[i] for i in shards), extents=renumbered, damage=(), ignored=())


def read(task: ReadTask, recipe: Recipe, *, new_block: Callable[[Recipe, int], Block] | None = None) -> Iterator[Block]:
    """Read, decode and yield the task's blocks; what cannot be delivered travels masked, never as an exception.

    `new_block` gives the arrays of a block, with any content (default `allocate_block`). Raises `StorageError` when
    the store itself fails: then the task may be run again, and gives the same blocks.
    """
    allocate = new_block or allocate_block
    samples = _samples(task, tuple(sorted(recipe.field_map.members)))
    numbers = np.concatenate(
        [
            first + part.first + np.arange(part.rows)
            for first, part in zip(task.first_rows, task.task.parts, strict=True)
        ]
        or [np.empty(0, np.int64)]
    )
    order = task.task.permutation()
    random = RowRandom(task.task.seed, task.task.epoch)
    for start in range(task.task.skip, task.task.stop, task.rows_per_block):
        chosen = order[start : start + task.rows_per_block]
        block = allocate(recipe, len(chosen))
        block["epoch"][:] = task.task.epoch
        block["fault"][:] = 0
        block["row"][:] = np.where(chosen < 0, -1, numbers[chosen] if len(numbers) else -1)
        for slot, position in enumerate(chosen):
            sample = samples[position] if position >= 0 else None
            block["valid"][slot] = sample is not None and _decode(sample, recipe, block, slot, random)
            if not block["valid"][slot]:
                _blank(recipe, block, slot)
            if sample is not None:
                samples[position] = None  # its bytes are not needed again
        yield block


def allocate_block(recipe: Recipe, rows: int) -> Block:
    """New arrays for the columns of a block, not initialised."""
    return {name: np.empty((rows, *c.shape), c.dtype) for name, c in recipe.columns.items()}


def _samples(task: ReadTask, members: tuple[str, ...]) -> list[RawSample | None]:
    parts = task.task.parts
    if not parts:
        return []
    with ThreadPoolExecutor(min(PARALLEL_READS, len(parts))) as pool:
        extents = pool.map(lambda part: read_extent(task.corpus, part.extent, columns=members), parts)
        return [s for part, rows in zip(parts, extents, strict=True) for s in rows[part.first : part.first + part.rows]]


def _decode(sample: RawSample, recipe: Recipe, block: Block, slot: int, random: RowRandom) -> bool:
    """Decode every field of one sample into row `slot`; False, with the fault noted, where that cannot be done."""
    field_name = ""
    try:
        if sample.fault is not None:
            raise sample.fault
        rng = random(int(block["row"][slot]))
        out = row_of(block, slot)
        for field in recipe.fields:
            field_name = field.name
            field.decode(_raw(field, recipe, sample.members or {}), rng, out)
    except BadSample as fault:
        block["fault"][slot] = encode_fault(sample.key, sample.offset, field_name, fault)
        return False
    return True


def _raw(field: Field, recipe: Recipe, members: Mapping[str, Any]) -> Any:
    """What a field decodes; None where the sample lacks one that it may lack."""
    try:
        return recipe.field_map.pick(field.name, members)
    except BadSample as fault:
        if fault.reason == "missing_member" and getattr(field, "optional", False):
            return None
        raise


def _blank(recipe: Recipe, block: Block, slot: int) -> None:
    """Zero what a masked row shows: fields may have been written before the one that failed."""
    for field in recipe.fields:
        for column in field.columns:
            block[column][slot] = 0


def encode_fault(key: str, offset: int, field: str, fault: BadSample) -> np.ndarray:
    """A fault as uint8 [FAULT_BYTES]: JSON, the detail shortened until it fits."""
    record = {"key": key, "offset": offset, "field": field, "reason": fault.reason, "detail": fault.detail[:200]}
    data = json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace")
    while len(data) > FAULT_BYTES:
        longest = max(("detail", "key"), key=lambda name: len(str(record[name])))
        record[longest] = str(record[longest])[: len(str(record[longest])) // 2]
        data = json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace")
    return np.frombuffer(data.ljust(FAULT_BYTES, b"\0"), np.uint8)


def decode_fault(fault: np.ndarray) -> dict | None:
    """The record of a masked row: key, offset, field, reason, detail; None for a sound row or padding."""
    data = fault.tobytes().rstrip(b"\0")
    return json.loads(data) if data else None


def faults(block: Block) -> list[dict]:
    """The quarantine records of a block, with `row` and `epoch`."""
    rows: Sequence[int] = np.flatnonzero(~block["valid"] & (block["row"] >= 0)).tolist()
    return [
        {**(decode_fault(block["fault"][i]) or {}), "row": int(block["row"][i]), "epoch": int(block["epoch"][i])}
        for i in rows
    ]
