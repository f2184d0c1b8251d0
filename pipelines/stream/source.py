"""Corpus + plan -> a Ray Dataset of blocks. No torch: what runs on the reading workers starts in a second.

Each read task of the plan is one Ray task that reads, decodes and yields blocks; encoded bytes never enter the object
store. What Ray must not do is to merge, split or drop a block: blocks are fixed-size binary columns of a fixed number
of rows, `target_max_block_size` lies just under their size, and `max_errored_blocks` stays 0.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, Datasource, ExecutionOptions, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask as RayReadTask

from pipelines.runtime import ray_compat
from pipelines.runtime.cluster import CPUS_PER_READ
from xmodal.data.decode.fields import Column
from xmodal.data.formats.extent_store import ExtentStore
from xmodal.data.index.corpus import Corpus
from xmodal.data.stream import block_cache, blocks
from xmodal.data.stream.block_cache import BlockCache
from xmodal.data.stream.blocks import RowDecoder
from xmodal.data.stream.order import StreamPlan, choose_block_rows


@dataclass(frozen=True, eq=False)
class Stream:
    """One corpus in its order: what `plan.global_batch` rows of every step come from."""

    corpus: Corpus
    plan: StreamPlan
    decoder: RowDecoder
    number: int = 0  # of the corpus in a mixture
    role: str = "source"  # of its rows in a batch
    cache: BlockCache | None = None  # where decoded blocks are kept
    store: ExtentStore | None = None  # where encoded rows of a widely shuffled order wait for their step

    def block_rows(self, world_size: int) -> int:
        return choose_block_rows(self.plan.global_batch, world_size, self.plan.task_rows, self.decoder.row_bytes)


class _Source(Datasource):
    """The read tasks of one segment, as Ray Data's."""

    def __init__(self, stream: Stream, start: int, stop: int, world_size: int) -> None:
        super().__init__()
        self._rows_per_block = stream.block_rows(world_size)
        self._tasks = list(blocks.block_tasks(stream.corpus, stream.plan, start, stop, self._rows_per_block))
        self._row_bytes = stream.decoder.row_bytes
        self._recipe, self._cache, self._store = ray.put(stream.decoder), stream.cache, stream.store

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def block_bytes(self) -> int:
        return self._rows_per_block * self._row_bytes

    def estimate_inmemory_data_size(self) -> int:
        return sum(t.read_task.stop - t.read_task.skip for t in self._tasks) * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[RayReadTask]:
        return [
            RayReadTask(_reader(task, self._recipe, self._cache, self._store), self._metadata(task))
            for task in self._tasks
        ]

    def _metadata(self, task: blocks.BlockTask) -> BlockMetadata:
        rows = task.read_task.stop - task.read_task.skip
        return BlockMetadata(num_rows=rows, size_bytes=rows * self._row_bytes, exec_stats=None, input_files=None)


def _reader(
    task: blocks.BlockTask, recipe: Any, cache: BlockCache | None, store: ExtentStore | None
) -> Callable[[], Iterator[pa.Table]]:
    def read() -> Iterator[pa.Table]:
        decoded = block_cache.read_cached_blocks(task, ray.get(recipe), cache, store=store, new_block=_two_in_turn())
        return (to_table(block) for block in decoded)

    return read


def _two_in_turn() -> Callable[[RowDecoder, int], blocks.Block]:
    """An allocator that fills the same two blocks again and again.

    Ray copies a block into its store before it asks for the next one, and fresh pages cost as much as the copy.
    """
    turns = itertools.count()
    buffers: dict[tuple[int, int], blocks.Block] = {}

    def allocate(recipe: RowDecoder, rows: int) -> blocks.Block:
        key = (next(turns) % 2, rows)
        if key not in buffers:
            buffers[key] = blocks.allocate_block(recipe, rows)
        return buffers[key]

    return allocate


def to_table(block: blocks.Block) -> pa.Table:
    """A block as Arrow columns of fixed-size binary over the same memory: nothing is copied or inspected."""
    columns = {}
    for name, array in block.items():
        width = array.nbytes // len(array)
        buffers = [None, pa.py_buffer(np.ascontiguousarray(array))]
        columns[name] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(array), buffers)
    return pa.table(columns)


def from_table(table: pa.Table, columns: dict[str, Column]) -> list[blocks.Block]:
    """The blocks that a table holds (one for each chunk), as views of its memory."""
    return [
        {name: _view(batch.column(name), column) for name, column in columns.items()} for batch in table.to_batches()
    ]


def _view(array: pa.Array, column: Column) -> np.ndarray:
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)
    return data.view(column.dtype).reshape(len(array), *column.shape)


def dataset(stream: Stream, start: int, stop: int, world_size: int, reserved: dict[str, float]) -> ray.data.Dataset:
    """The Ray Dataset of steps [start, stop); `reserved` is what the train workers hold of the cluster."""
    source = _Source(stream, start, stop, world_size)
    with DataContext.current(_context(source.block_bytes, reserved)):
        return ray.data.read_datasource(source, override_num_blocks=len(source), num_cpus=CPUS_PER_READ)


def _context(block_bytes: int, reserved: dict[str, float]) -> DataContext:
    context = DataContext.get_current().copy()
    reserved_resources = ExecutionResources(cpu=reserved.get("CPU", 0.0), gpu=reserved.get("GPU", 0.0))
    with warnings.catch_warnings():  # deprecated until 2027, and nothing else keeps Data off the train workers' slots
        warnings.simplefilter("ignore")
        context.execution_options = ExecutionOptions(preserve_order=True, exclude_resources=reserved_resources)
    context.target_min_block_size = 1
    context.target_max_block_size = block_bytes - 1  # a block is passed on as soon as it is over, split at 1.5 times
    context.max_errored_blocks = 0  # one dropped block would shift every later batch
    context.execution_no_progress_timeout_s = -1  # a long validation or upload is not a stall of the data
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [
        *context.custom_execution_callback_classes,
        ray_compat.backpressure_throttle(),
    ]
    return context
