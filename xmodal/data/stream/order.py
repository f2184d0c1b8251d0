"""The deterministic order of rows: the rows of step s depend on the extent sizes, the seed and s alone.

An epoch is cut into *read tasks* of a fixed number of rows. The tasks in order are the epoch; global batch s is its
s-th run of `global_batch` rows. The number of workers has no influence. The last batch of an epoch is filled up with
padding (row -1), so that no row is repeated or dropped. How rows come into this order is the plan's `shuffle`:

- `off`: as they lie in the corpus.
- `task`: the extents in random order; a task's rows, which come from a few of them, are permuted.
- `wide`: the extents in random order; every step takes rows from hundreds of them (`xmodal.data.stream.lanes`).
- `full`: one random permutation of all rows.

Random numbers are raw 64-bit draws of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), keyed
through numpy's SeedSequence. numpy guarantees that both streams never change, so the order survives a numpy upgrade.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np

from xmodal.data.stream.lanes import Lanes

Shuffle = Literal["off", "task", "wide", "full"]
SHUFFLES: tuple[Shuffle, ...] = get_args(Shuffle)
EPOCH, TASK, AUGMENT, LANES = range(4)  # the purposes of random streams; streams of different purposes never overlap


def philox(seed: int, *key: int) -> np.random.Philox:
    """Return the counter-based bit generator of one purpose; `seed` and `key` are non-negative integers."""
    return np.random.Philox(np.random.SeedSequence((seed, *key)))


class RowRandom:
    """Random numbers for each row of one epoch (crop, flip, caption), the same on whichever worker it is decoded.

    A call with a row's number returns a generator at the start of the row's own stream, valid until the next call. Rows
    are positions of one key's counter, 2^128 draws apart: setting it costs 2 microseconds, a new generator 40.

    >>> random = RowRandom(seed=1, epoch=0)
    >>> first = random(7).random()
    >>> random(8).random() != first, random(7).random() == first
    (True, True)
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self._bits = philox(seed, AUGMENT, epoch)
        self._start = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def __call__(self, row: int) -> np.random.Generator:
        self._start["state"]["counter"][:] = (0, 0, row, 0)
        self._bits.state = self._start
        return self._generator


def row_uniform(rng: np.random.Generator) -> float:
    """Return a number in [0, 1) that depends on the row of `rng` alone, whatever was drawn from `rng` before.

    Fields of one row that must agree (audio and video take the same seconds of a clip) use it.
    """
    bits = rng.bit_generator
    if not isinstance(bits, np.random.Philox):
        return float(np.random.default_rng(bits.seed_seq.generate_state(4)).random())
    state = bits.state["state"]
    row_bits = np.random.Philox(key=state["key"], counter=[0, 0, state["counter"][2], 1])
    return float(np.random.Generator(row_bits).random())


@dataclass(frozen=True)
class ExtentSlice:
    """A run of rows of one extent, before the permutation of its task."""

    extent: int
    first: int  # first row, counted inside the extent
    rows: int


@dataclass(frozen=True)
class ReadTask:
    """One read task: `rows` consecutive rows of an epoch, of which those from `skip` to `stop` - 1 are delivered."""

    epoch: int
    index: int  # of the task within the epoch
    slices: tuple[ExtentSlice, ...]
    rows: int  # with padding; a multiple of every block size
    seed: int
    shuffle: bool
    skip: int  # rows before it were delivered before a restart
    stop: int  # rows from here on belong to later steps
    picks: np.ndarray | None = field(default=None, compare=False, repr=False)
    """int32 [rows, 2]: the extent of each row in the order of delivery, and its row in there; -1 is padding. Where
    given, `slices` is empty"""

    def permutation(self) -> np.ndarray:
        """Return the positions of the task's rows (counted along `slices`) in the order of delivery; -1 is padding."""
        if self.picks is not None:
            return np.where(self.picks[:, 0] < 0, -1, np.arange(self.rows))
        unpadded = sum(piece.rows for piece in self.slices)
        order = np.arange(unpadded)
        if self.shuffle:
            order = np.argsort(philox(self.seed, TASK, self.epoch, self.index).random_raw(unpadded), kind="stable")
        return np.concatenate([order, np.full(self.rows - unpadded, -1)])


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """The order of one corpus under one seed and one global batch size.

    `extent_rows` and `extent_shard` are int arrays with one entry per extent. `shuffle="off"` keeps the order of the
    corpus (for evaluation).

    >>> plan = StreamPlan(np.array([5, 3]), np.array([0, 1]), seed=0, global_batch=4)
    >>> plan.rows, plan.steps_per_epoch
    (8, 2)
    >>> [task.rows for task in plan.tasks(0, 4)]
    [8, 8]
    """

    extent_rows: np.ndarray
    extent_shard: np.ndarray
    seed: int
    global_batch: int
    shuffle: Shuffle = "task"
    target_task_rows: int = 1024  # rows read by one task, which bounds its memory; `task` permutes no others with them

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise ValueError(f"global_batch must be at least 1, not {self.global_batch}")
        if len(self.extent_rows) != len(self.extent_shard) or not len(self.extent_rows):
            raise ValueError("a plan needs at least one extent, and one shard number per extent")
        if self.shuffle not in SHUFFLES:
            raise ValueError(f"shuffle must be one of {', '.join(SHUFFLES)}, not {self.shuffle!r}")

    @cached_property
    def rows(self) -> int:
        """Rows of the corpus, each of which one epoch delivers exactly once."""
        return int(self.extent_rows.sum(dtype=np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of one epoch; the last one may be padded."""
        return -(-self.rows // self.global_batch)

    @cached_property
    def task_rows(self) -> int:
        """Rows of a full read task: a multiple or a divisor of the global batch, whatever the number of workers."""
        target, batch = self.target_task_rows, self.global_batch
        if batch <= target:
            return batch * (target // batch)
        return next(size for size in range(target, 0, -1) if batch % size == 0)

    def task(self, epoch: int, index: int) -> ReadTask:
        """Return the `index`-th read task of `epoch`."""
        start = index * self.task_rows
        rows = min(self.task_rows, self.steps_per_epoch * self.global_batch - start)
        if self.shuffle in ("wide", "full"):
            picks = self._picks(epoch, start, rows)
            return ReadTask(epoch, index, (), rows, self.seed, False, skip=0, stop=rows, picks=picks)
        slices = self._slices(epoch, start, min(start + rows, self.rows))
        return ReadTask(epoch, index, slices, rows, self.seed, self.shuffle == "task", skip=0, stop=rows)

    def _picks(self, epoch: int, start: int, rows: int) -> np.ndarray:
        """Return the extent and the row in it of `rows` positions of a well mixed epoch, from `start` on."""
        order, ends = epoch_order(self, epoch)
        lanes = Lanes(self.rows, self.global_batch, whole=self.shuffle == "full")
        key = int(philox(self.seed, LANES, epoch).random_raw())
        row = lanes.rows_at(np.arange(start, start + rows), key)
        slot = np.searchsorted(ends, np.maximum(row, 0), side="right")
        extent = order[slot]
        first = ends[slot] - self.extent_rows[extent]
        picks = np.stack([extent, row - first], axis=1).astype(np.int32)
        picks[row < 0] = -1
        return picks

    def _slices(self, epoch: int, start: int, stop: int) -> tuple[ExtentSlice, ...]:
        """Return the runs of rows that hold the rows from `start` to `stop` - 1 of an epoch of whole extents."""
        order, ends = epoch_order(self, epoch)
        slots = range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
        slices = []
        for slot in slots if stop > start else ():
            end = int(ends[slot])
            extent = int(order[slot])
            begin = end - int(self.extent_rows[extent])
            first = max(start, begin)
            slices.append(ExtentSlice(extent, first - begin, min(stop, end) - first))
        return tuple(slices)

    def tasks(self, start_step: int, stop_step: int) -> Iterator[ReadTask]:
        """Yield the read tasks that deliver exactly the steps `start_step` to `stop_step` - 1."""
        row, stop = start_step * self.global_batch, stop_step * self.global_batch
        per_epoch = self.steps_per_epoch * self.global_batch
        while row < stop:
            epoch, position = divmod(row, per_epoch)
            task = self.task(epoch, position // self.task_rows)
            skip = position % self.task_rows
            end = min(task.rows, skip + stop - row)
            yield replace(task, skip=skip, stop=end)
            row += end - skip


@lru_cache(maxsize=2)
def epoch_order(plan: StreamPlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the extents of `epoch` in their order, and the running sum of their rows; two epochs are cached."""
    order = np.arange(len(plan.extent_rows))
    if plan.shuffle != "off":
        order = interleave_shards(plan.extent_shard, philox(plan.seed, EPOCH, epoch))
    return order, np.cumsum(plan.extent_rows[order], dtype=np.int64)


def interleave_shards(shard: np.ndarray, bits: np.random.Philox) -> np.ndarray:
    """Return a random permutation of extents in which each shard's extents are spread evenly over the whole epoch.

    Neighbours then come from different shards, so that a read task mixes them, even if shards were written source by
    source or class by class. The j-th of a shard's n extents (in random order) falls at (j + u) / n of the epoch.
    """
    extents = len(shard)
    draw = bits.random_raw(extents)
    by_shard = _sorted_by(shard.astype(np.uint64), draw)
    counts = np.bincount(shard)
    starts = np.cumsum(counts) - counts
    of_shard = shard[by_shard]
    jitter = bits.random_raw(extents) / 2.0**64
    position = (np.arange(extents) - starts[of_shard] + jitter) / counts[of_shard]
    position_bits = (position * 2.0**63).astype(np.uint64) << np.uint64(1)
    permutation: np.ndarray = by_shard[_sorted_by(np.zeros(extents, np.uint64), position_bits)]
    return permutation


def _sorted_by(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the indices sorted by group, then by the leading bits of `key`, then by index.

    All three are packed into one uint64, whose sort has no ties and is five times as fast as argsort.
    """
    index_bits = np.uint64(max(1, len(group) - 1).bit_length())
    group_bits = np.uint64(int(group.max()).bit_length())
    packed = group << (np.uint64(64) - group_bits) if group_bits else np.zeros_like(group)
    packed |= (key >> (group_bits + index_bits)) << index_bits
    packed |= np.arange(len(group), dtype=np.uint64)
    packed.sort()
    return (packed & ((np.uint64(1) << index_bits) - np.uint64(1))).astype(np.int64)


def choose_block_rows(
    global_batch: int, world_size: int, task_rows: int, row_bytes: int, target_bytes: int = 32 << 20
) -> int:
    """Return the largest number of rows of a block that divides a rank's share and a task within `target_bytes`.

    Every block costs Ray's scheduler and splitter some milliseconds, so that large blocks are cheaper per row (224-px
    images: 0.57 ms of the splitter's time a row in blocks of 32, 0.08 in blocks of 128).

    `world_size` must divide `global_batch`. It changes the size of blocks, but not the order of rows.

    >>> choose_block_rows(global_batch=256, world_size=4, task_rows=1024, row_bytes=150_000)
    64
    """
    share = int(np.gcd(global_batch // world_size, task_rows))
    max_rows = max(1, target_bytes // row_bytes)
    return next(size for size in range(min(share, max_rows), 0, -1) if share % size == 0)


def split_global_batch(global_batch: int, weights: Sequence[float | int]) -> list[int]:
    """Split a global batch over corpora in proportion to `weights`, by largest remainder.

    The shares are multiples of the largest power of two up to 16 that keeps every share within 5 % of its proportion
    (else of 1), so that the usual worker counts divide every share. The result depends on batch and weights alone.

    >>> split_global_batch(256, [3, 1])
    [192, 64]
    """
    if global_batch < len(weights):
        raise ValueError(f"a global batch of {global_batch} cannot be split by the weights {list(weights)}")
    exact = [global_batch * weight / sum(weights) for weight in weights]
    for unit in (16, 8, 4, 2):
        if global_batch % unit == 0 and global_batch // unit >= len(weights):
            shares = [unit * units for units in _apportion(global_batch // unit, weights)]
            if all(abs(rows - share) <= 0.05 * share for rows, share in zip(shares, exact, strict=True)):
                return shares
    return _apportion(global_batch, weights)


def _apportion(units: int, weights: Sequence[float | int]) -> list[int]:
    """Return at least one unit for each weight, the others in proportion by largest remainder, ties to the first."""
    demand = [max(0.0, units * weight / sum(weights) - 1) for weight in weights]
    remaining = units - len(weights)
    exact = [remaining * share / sum(demand) if remaining else 0.0 for share in demand]
    extra = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: extra[i] - exact[i])
    for i in by_remainder[: remaining - sum(extra)]:
        extra[i] += 1
    return [1 + units for units in extra]
