"""Which rows come at step s: a pure function of (extent sizes, seed, step), and of nothing else.

An epoch is a sequence of extents, cut into *read tasks* of a fixed number of rows; each task's rows are permuted.
Concatenated, the tasks are the epoch; global batch s is its s-th run of `global_batch` rows. The number of workers
appears nowhere. The last batch of an epoch is filled up with padding (row -1), so nothing wraps and nothing is dropped.

Random numbers are raw 64-bit draws of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
keyed through numpy's SeedSequence: both streams are frozen by numpy, so an order outlives a numpy upgrade.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

EPOCH, TASK, AUGMENT = range(3)  # what a random stream is for: streams of different purpose never meet


def philox(seed: int, *key: int) -> np.random.Philox:
    """The counter-based bit generator of one purpose; `seed` and `key` are non-negative integers."""
    return np.random.Philox(np.random.SeedSequence((seed, *key)))


class RowRandom:
    """The randomness of each row in one epoch (crop, flip, caption): the same on whichever worker it is decoded.

    `random(row)` is a generator at the start of the row's own stream, good until the next call. Rows are places of the
    counter of one key, 2^128 draws apart: setting it costs 2 microseconds, a new generator 40.
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
    """A number in [0, 1) of the row itself: the same whatever has been drawn from `rng` for it before.

    Fields of one row that must agree (the seconds of a clip that are seen and heard) draw with it.
    """
    bits = rng.bit_generator
    if not isinstance(bits, np.random.Philox):
        return float(np.random.default_rng(bits.seed_seq.generate_state(4)).random())
    state = bits.state["state"]
    own = np.random.Philox(key=state["key"], counter=[0, 0, state["counter"][2], 1])
    return float(np.random.Generator(own).random())


@dataclass(frozen=True)
class Part:
    """A run of rows of one extent, before the permutation of its task."""

    extent: int
    first: int  # row inside the extent
    rows: int


@dataclass(frozen=True)
class Task:
    """One read task: `rows` consecutive rows of an epoch, of which those from `skip` to `stop` are delivered."""

    epoch: int
    index: int  # within the epoch
    parts: tuple[Part, ...]
    rows: int  # with padding; a multiple of every block size
    seed: int
    shuffle: bool
    skip: int  # what lies before was delivered before a restart
    stop: int  # what lies behind is not wanted

    def permutation(self) -> np.ndarray:
        """Positions of the task's rows (counted along `parts`) in the order of delivery; -1 is padding."""
        real = sum(part.rows for part in self.parts)
        order = np.arange(real)
        if self.shuffle:
            order = np.argsort(philox(self.seed, TASK, self.epoch, self.index).random_raw(real), kind="stable")
        return np.concatenate([order, np.full(self.rows - real, -1)])


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of one corpus under one seed and one global batch size.

    `extent_rows` and `extent_shard` are int arrays with one entry per extent. `shuffle=False` keeps the corpus order
    (evaluation).
    """

    extent_rows: np.ndarray
    extent_shard: np.ndarray
    seed: int
    global_batch: int
    shuffle: bool = True
    task_rows_wanted: int = 1024  # rows permuted together and read by one task; bounds its memory

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise ValueError(f"global_batch must be at least 1, not {self.global_batch}")
        if len(self.extent_rows) != len(self.extent_shard) or not len(self.extent_rows):
            raise ValueError("a plan needs at least one extent, and one shard number per extent")

    @cached_property
    def rows(self) -> int:
        """Rows of the corpus: what one epoch delivers, each exactly once."""
        return int(self.extent_rows.sum(dtype=np.int64))

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.global_batch)

    @cached_property
    def task_rows(self) -> int:
        """Rows of a full read task: a multiple or a divisor of the global batch, whatever the number of workers."""
        wanted, batch = self.task_rows_wanted, self.global_batch
        if batch <= wanted:
            return batch * (wanted // batch)
        return next(size for size in range(wanted, 0, -1) if batch % size == 0)

    @property
    def tasks_per_epoch(self) -> int:
        return -(-self.steps_per_epoch * self.global_batch // self.task_rows)

    def task(self, epoch: int, index: int) -> Task:
        """The `index`-th read task of `epoch`."""
        order, ends = epoch_order(self, epoch)
        start = index * self.task_rows
        rows = min(self.task_rows, self.steps_per_epoch * self.global_batch - start)
        stop = min(start + rows, self.rows)
        slots = range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
        parts = []
        for slot in slots if stop > start else ():
            end = int(ends[slot])
            extent = int(order[slot])
            begin = end - int(self.extent_rows[extent])
            first = max(start, begin)
            parts.append(Part(extent, first - begin, min(stop, end) - first))
        return Task(epoch, index, tuple(parts), rows, self.seed, self.shuffle, skip=0, stop=rows)

    def tasks(self, start_step: int, stop_step: int) -> Iterator[Task]:
        """The read tasks that deliver exactly steps `start_step` to `stop_step` - 1."""
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
def epoch_order(plan: Plan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The extents of `epoch` in their order, and the running sum of their rows; the last two epochs are kept."""
    order = np.arange(len(plan.extent_rows))
    if plan.shuffle:
        order = spread(plan.extent_shard, philox(plan.seed, EPOCH, epoch))
    return order, np.cumsum(plan.extent_rows[order], dtype=np.int64)


def spread(shard: np.ndarray, bits: np.random.Philox) -> np.ndarray:
    """A random permutation of extents in which each shard's extents lie evenly over the whole epoch.

    So neighbours come from different shards, which is what a read task wants to mix: shards written source by source
    or class by class do not arrive in lumps. The j-th of a shard's n extents (in random order) falls at (j + u) / n.
    """
    extents = len(shard)
    draw = bits.random_raw(extents)
    by_shard = _sorted_by(shard.astype(np.uint64), draw)
    counts = np.bincount(shard)
    starts = np.cumsum(counts) - counts
    of_shard = shard[by_shard]
    jitter = bits.random_raw(extents) / 2.0**64
    position = (np.arange(extents) - starts[of_shard] + jitter) / counts[of_shard]
    return by_shard[_sorted_by(np.zeros(extents, np.uint64), (position * 2.0**63).astype(np.uint64) << np.uint64(1))]


def _sorted_by(group: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The indices sorted by group, then by the leading bits of `key`, then by themselves.

    All three are packed into one uint64, so that plain values are sorted: no ties, and five times as fast as argsort.
    """
    index_bits = np.uint64(max(1, len(group) - 1).bit_length())
    group_bits = np.uint64(int(group.max()).bit_length())
    packed = group << (np.uint64(64) - group_bits) if group_bits else np.zeros_like(group)
    packed |= (key >> (group_bits + index_bits)) << index_bits
    packed |= np.arange(len(group), dtype=np.uint64)
    packed.sort()
    return (packed & ((np.uint64(1) << index_bits) - np.uint64(1))).astype(np.int64)


def block_rows(global_batch: int, world_size: int, task_rows: int, row_bytes: int, target_bytes: int = 32 << 20) -> int:
    """Rows of a block: the largest that divides a rank's share and a task and stays within `target_bytes`.

    Every block costs Ray's scheduler and splitter some milliseconds, so large ones are cheaper by the row (224-px
    images: 0.57 ms of the splitter's time a row in blocks of 32, 0.08 in blocks of 128).

    `world_size` must divide `global_batch`. The order of rows does not depend on it: blocks only cut the stream.
    """
    share = int(np.gcd(global_batch // world_size, task_rows))
    most = max(1, target_bytes // row_bytes)
    return next(size for size in range(min(share, most), 0, -1) if share % size == 0)


def shares(global_batch: int, weights: Sequence[float | int]) -> list[int]:
    """Split a global batch over corpora in proportion to `weights`, by largest remainder.

    The unit is the largest power of two up to 16 that keeps every share within 5 % of its proportion (else 1), so that
    the usual worker counts divide every share. The result depends on batch and weights alone.
    """
    if global_batch < len(weights):
        raise ValueError(f"a global batch of {global_batch} cannot be split by the weights {list(weights)}")
    exact = [global_batch * weight / sum(weights) for weight in weights]
    for unit in (16, 8, 4, 2):
        if global_batch % unit == 0 and global_batch // unit >= len(weights):
            parts = [unit * units for units in _apportion(global_batch // unit, weights)]
            if all(abs(part - share) <= 0.05 * share for part, share in zip(parts, exact, strict=True)):
                return parts
    return _apportion(global_batch, weights)


def _apportion(units: int, weights: Sequence[float | int]) -> list[int]:
    """Units for each weight, at least one: above that one in proportion, by largest remainder, ties to the first."""
    wanted = [max(0.0, units * weight / sum(weights) - 1) for weight in weights]
    left = units - len(weights)
    exact = [left * share / sum(wanted) if left else 0.0 for share in wanted]
    given = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: given[i] - exact[i])
    for i in by_remainder[: left - sum(given)]:
        given[i] += 1
    return [1 + extra for extra in given]
