"""Stream a corpus into a plain PyTorch loop: the deterministic order of the Ray stream as an `IterableDataset`."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from xmodal.batch import Batch
from xmodal.data.decode.fields import Column, Field
from xmodal.data.formats.extent_store import ExtentStore
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.field_maps import field_map
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import Block, BlockTask, RowDecoder
from xmodal.data.stream.order import SHUFFLES, Shuffle, StreamPlan, choose_block_rows
from xmodal.errors import ConfigError, TooManyBadRows, nearest

ROWS_BEFORE_JUDGEMENT = 1000  # so few rows say nothing about the share of bad ones


class StreamingDataset(IterableDataset[Batch]):
    """Batches of one rank, in an order that depends on the corpus, the seed and the step alone.

    The global batch of step s is the same for any number of ranks; rank r of W gets `global_batch / W` of its rows.
    Each iteration runs to the end of the epoch that it begins in, so that `for epoch in range(n): for batch in
    dataset:` trains n epochs; `len(dataset)` is the number of steps in one. Rows that cannot be decoded travel with
    `batch.valid` false, as does the padding of an epoch's last batch.

    Args:
        corpus: a corpus or its URI (see `open_corpus`).
        fields: what decodes a sample, e.g. `ImageField(size=224)` and `TextField(tokenizer_json=...)`.
        global_batch: rows of a step over all ranks; a multiple of `world_size`.
        seed: key of the order and of the fields' augmentation.
        shuffle: how rows are mixed: "off" (the order of the corpus), "task" (the rows of a read task among each
            other), "wide" (every batch has rows from hundreds of runs of the corpus) or "full" (all rows).
        store: where encoded rows wait for their step if they are shuffled widely; by default a folder in ~/.cache.
        fields_from: where the fields are found, e.g. `("image=jpg|png", "text=json:caption")`; empty: the usual names.
        rank, world_size: of this process; by default those of the initialised process group, else 0 of 1.
        rows_per_task: rows that are read together.
        read_ahead: read tasks of which this rank's rows are decoded ahead, each in a thread of its own.
        max_bad_fraction: share of bad rows above which iteration raises TooManyBadRows.

    With a `DataLoader` pass `batch_size=None`; its workers share the steps among them and batches still come in order.
    Each rank and each worker decodes its own rows only. Encoded bytes are read for whole read tasks (`task`), or come
    through the store, which processes of one machine share (`wide`, `full`).

    To resume, give `state_dict()` of the moment to `load_state_dict`. `state_dict` counts the batches that this process
    has yielded; with DataLoader workers, which prefetch in processes of their own, load `{"step": steps_taken}`.

    >>> import xmodal, torch
    >>> from xmodal.data.decode.image import ImageField
    >>> dataset = xmodal.StreamingDataset("shards/", [ImageField(size=64)], global_batch=256)  # doctest: +SKIP
    >>> loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=4)          # doctest: +SKIP
    """

    def __init__(
        self,
        corpus: Corpus | str,
        fields: Sequence[Field],
        *,
        global_batch: int,
        seed: int = 0,
        shuffle: Shuffle = "wide",
        store: ExtentStore | None = None,
        fields_from: Sequence[str] = (),
        rank: int | None = None,
        world_size: int | None = None,
        rows_per_task: int = 1024,
        read_ahead: int = 1,
        max_bad_fraction: float = 0.01,
    ) -> None:
        super().__init__()
        self.rank, self.world_size = _place(rank, world_size)
        if global_batch < 1 or global_batch % self.world_size:
            raise ConfigError(f"global_batch={global_batch} must be a positive multiple of {self.world_size} ranks")
        if shuffle not in SHUFFLES:
            raise ConfigError(f"shuffle={shuffle!r}: {nearest(str(shuffle), SHUFFLES)}")
        if rows_per_task < 1 or read_ahead < 0:
            raise ConfigError(f"rows_per_task={rows_per_task} must be at least 1, read_ahead={read_ahead} at least 0")
        self.corpus = open_corpus(corpus) if isinstance(corpus, str) else corpus
        mapping = field_map(self.corpus, fields_from, [field.name for field in fields])
        self.row_decoder = RowDecoder(mapping, tuple(fields))
        extents = self.corpus.extents
        self.plan = StreamPlan(
            extents.rows, extents.shard, seed, global_batch, shuffle=shuffle, target_task_rows=rows_per_task
        )
        self.store = store or ExtentStore()
        self.read_ahead = read_ahead
        self.max_bad_fraction = max_bad_fraction
        self.bad_rows: list[dict[str, Any]] = []  # records of the rows that this process could not decode
        self._delivered = 0
        self._position = _Position(step=0)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.plan.steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration with the first step of `epoch`, as `DistributedSampler.set_epoch` does."""
        self._position = _Position(step=epoch * len(self))

    def state_dict(self) -> dict[str, int]:
        """The step that comes next, with this process's share of the steps where it is one of several workers."""
        position = self._position
        return {"step": position.step, "worker": position.worker, "workers": position.workers}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Begin the next iteration with `state["step"]`; ConfigError where it is of another number of workers."""
        self._position = _Position(**state)

    def __iter__(self) -> Iterator[Batch]:
        """Yield this rank's share of every step up to the end of the epoch."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        start = self._position.of_worker(worker, workers)
        stop = (start.step // len(self) + 1) * len(self)
        steps = range(start.step, stop, workers)
        for step, batch in zip(steps, self._batches(steps), strict=True):
            self._position = _Position(step + workers, worker, workers)
            yield batch
        if workers == 1:
            self._position = _Position(step=stop)

    def _batches(self, steps: range) -> Iterator[Batch]:
        """Join this rank's blocks of each of these steps."""
        wanted_rows = self.plan.global_batch // self.world_size
        gathered: list[Block] = []
        for block in self._blocks(steps):
            gathered.append(block)
            if sum(len(block["row"]) for block in gathered) == wanted_rows:
                self._judge(gathered)
                yield batch_of_blocks(gathered, self.row_decoder.columns)
                gathered = []

    def _blocks(self, steps: range) -> Iterator[Block]:
        """Decode this rank's blocks of these steps in order, `read_ahead` read tasks ahead."""
        if not steps:
            return
        plan, row_bytes = self.plan, self.row_decoder.row_bytes
        rows = choose_block_rows(plan.global_batch, self.world_size, plan.task_rows, row_bytes)
        tasks = blocks.block_tasks(self.corpus, plan, steps.start, steps.stop, rows)
        work = (partial(self._read, task, steps) for task in tasks)
        for decoded in _ahead(work, self.read_ahead):
            yield from decoded

    def _read(self, task: BlockTask, steps: range) -> list[Block]:
        """Decode the blocks of a task that are of this rank and these steps; where there are none, read nothing."""
        wanted = partial(self._is_wanted, task, steps)
        positions = range(task.read_task.skip, task.read_task.stop, task.rows_per_block)
        if not any(map(wanted, positions)):
            return []
        return list(blocks.read_blocks(task, self.row_decoder, store=self.store, wanted=wanted))

    def _is_wanted(self, task: BlockTask, steps: range, position: int) -> bool:
        """Whether the block at this row of the task is of one of these steps, and this rank's."""
        plan, read_task = self.plan, task.read_task
        row_of_epoch = read_task.index * plan.task_rows + position
        step_of_epoch, row_of_step = divmod(row_of_epoch, plan.global_batch)
        step = read_task.epoch * plan.steps_per_epoch + step_of_epoch
        return step in steps and row_of_step // task.rows_per_block % self.world_size == self.rank

    def _judge(self, decoded: Sequence[Block]) -> None:
        """Record the bad rows of a step; TooManyBadRows where their share passes the limit."""
        records = [record for block in decoded for record in blocks.block_faults(block)]
        self._delivered += sum(int((block["row"] >= 0).sum()) for block in decoded)
        if records and not self.bad_rows:
            warnings.warn(f"{self.corpus.uri}: a row cannot be decoded and is masked: {records[0]}", stacklevel=3)
        self.bad_rows += records
        enough = min(ROWS_BEFORE_JUDGEMENT, self.corpus.rows // self.world_size)
        if self._delivered >= enough and len(self.bad_rows) > self.max_bad_fraction * self._delivered:
            raise TooManyBadRows(
                f"{len(self.bad_rows)} of {self._delivered} rows of {self.corpus.uri} could not be decoded, more than "
                f"max_bad_fraction={self.max_bad_fraction:g}; the last one: {self.bad_rows[-1]}. Fix the corpus, or "
                "raise max_bad_fraction"
            )


@dataclass(frozen=True)
class _Position:
    """Where iteration goes on: the next step of one of several workers (one worker: of the process)."""

    step: int
    worker: int = 0
    workers: int = 1

    def of_worker(self, worker: int, workers: int) -> "_Position":
        """The first step of a worker. A position of the whole process is dealt out over its workers."""
        if self.workers == 1:
            return _Position(self.step + worker, worker, workers)
        if (self.worker, self.workers) != (worker, workers):
            raise ConfigError(
                f"this state is of DataLoader worker {self.worker} of {self.workers}, not of {worker} of {workers}: "
                "resume with as many workers, or load {'step': steps_taken}"
            )
        return self


def batch_of_blocks(parts: Sequence[Block], columns: Mapping[str, Column]) -> Batch:
    """Join blocks into a batch of tensors, the only copy of their rows; zeros where a block lacks a column.

    The tensors are pinned where CUDA is at hand.
    """
    rows = [len(block["row"]) for block in parts]
    joined = {
        name: _concatenate([block.get(name) for block in parts], rows, column)
        for name, column in columns.items()
        if name not in ("fault", "epoch")
    }
    return Batch(joined.pop("row"), joined.pop("valid"), joined)


def _concatenate(arrays: Sequence[np.ndarray | None], rows: Sequence[int], column: Column) -> Tensor:
    dtype = getattr(torch, column.dtype)
    joined = torch.empty((sum(rows), *column.shape), dtype=dtype, pin_memory=torch.cuda.is_available())
    out, start = joined.numpy(), 0
    for array, length in zip(arrays, rows, strict=True):
        out[start : start + length] = 0 if array is None else array
        start += length
    return joined


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's rank and the number of ranks; ConfigError for one that is out of range."""
    grouped = dist.is_available() and dist.is_initialized()
    world_size = (dist.get_world_size() if grouped else 1) if world_size is None else world_size
    rank = (dist.get_rank() if grouped else 0) if rank is None else rank
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank={rank} must lie in [0, {world_size}), the number of ranks")
    return rank, world_size


def _ahead(work: Iterable[Any], count: int) -> Iterator[Any]:
    """Call each piece of work in a thread, up to `count` before their results are asked for; yield results in order."""
    if count == 0:
        yield from (piece() for piece in work)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="xmodal-read") as pool:
        waiting: deque[Future[object]] = deque()
        try:
            for piece in work:
                waiting.append(pool.submit(piece))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
