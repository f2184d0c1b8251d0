"""A well mixed order that is still read in runs: lanes, each of which permutes one window of its rows after another.

A step takes the same few rows from each of its L *lanes*. An epoch's extents, in their random order, are dealt out to
the lanes in L contiguous parts, and a lane cuts its part into *windows* of about `window_steps` steps, whose rows it
delivers in random order. Two rows that are neighbours in the corpus so lie in the same step with a chance of one in
`window_steps`, whatever the size of the batch. Windows of different lanes begin at different steps, so that the rows
that must be read for a step are about as many as those that it delivers.

Positions are computed, not stored: a permutation is a Feistel network over the window's row numbers, walked on where it
leads out of the window (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). A task of a thousand rows
costs a few array operations, whatever the corpus.
"""

from dataclasses import dataclass

import numpy as np

MIN_LANE_ROWS = 8  # rows that a lane gives to a step: fewer would make lanes of a few extents
WINDOW_ROWS = 65_536  # of all lanes together, where that lies between the two bounds
MIN_WINDOW_STEPS, MAX_WINDOW_STEPS = 80, 128
ROUNDS = 6  # of the Feistel network
_MULTIPLY_1, _MULTIPLY_2, _GOLDEN = (
    np.uint64(constant) for constant in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)
)
_ROUND_KEYS = np.arange(ROUNDS, dtype=np.uint64) * _GOLDEN


@dataclass(frozen=True)
class Lanes:
    """How the rows of an epoch lie in its steps.

    `rows` is the number of rows of an epoch, `global_batch` that of a step. With `whole` an epoch is one window.

    >>> lanes = Lanes(rows=100, global_batch=16)
    >>> lanes.count, lanes.steps
    (2, 7)
    >>> order = lanes.rows_at(np.arange(7 * 16), key=1)
    >>> sorted(order.tolist()) == [-1] * 12 + list(range(100))
    True
    """

    rows: int
    global_batch: int
    whole: bool = False

    @property
    def lane_rows(self) -> int:
        """Rows that a lane gives to a step: the smallest divisor of the batch from MIN_LANE_ROWS on."""
        if self.whole:
            return self.global_batch
        sizes = range(min(MIN_LANE_ROWS, self.global_batch), self.global_batch + 1)
        return next(size for size in sizes if self.global_batch % size == 0)

    @property
    def count(self) -> int:
        """Number of lanes."""
        return self.global_batch // self.lane_rows

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return -(-self.rows // self.global_batch)

    @property
    def window_steps(self) -> int:
        """Number of steps over which a window spreads its rows; those at the ends of an epoch may be half as long."""
        if self.whole:
            return self.steps
        return min(max(WINDOW_ROWS // self.global_batch, MIN_WINDOW_STEPS), MAX_WINDOW_STEPS)

    def rows_at(self, positions: np.ndarray, key: int) -> np.ndarray:
        """Return the row (int64, in the order of the epoch's extents) at each position of the epoch; -1 is padding.

        A position counts the rows delivered since the epoch began. `key`, from 0 to 2^64 - 1, chooses the permutations.
        """
        step, slot = np.divmod(positions.astype(np.int64), self.global_batch)
        lane, place = np.divmod(slot, self.lane_rows)
        begin, end = self.windows(step, lane)
        first, last = lane * self.rows // self.count, (lane + 1) * self.rows // self.count  # the lane's rows
        window_first = first + begin * self.lane_rows
        size = np.minimum(first + end * self.lane_rows, last) - window_first
        inside = (step - begin) * self.lane_rows + place
        real = inside < size
        window_key = _mix(_mix(np.uint64(key) + lane.astype(np.uint64) * _GOLDEN) ^ begin.astype(np.uint64))
        row = window_first[real] + permute(inside[real], size[real], window_key[real])
        result = np.full(len(positions), -1, np.int64)
        result[real] = row
        return result

    def windows(self, step: np.ndarray, lane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first step, and the one after the last, of the lane's window that holds the step."""
        length, steps = self.window_steps, self.steps
        shortest = length // 2
        offset = lane * length // self.count  # of the first boundary; the others lie `length` apart
        begin = offset + (step - offset) // length * length
        end = begin + length
        end = np.where(end > steps - shortest, steps, end)  # a boundary near an end would leave a short window
        begin = np.where(begin > steps - shortest, begin - length, begin)
        return np.where(begin < shortest, 0, begin), np.where(end < shortest, end + length, end).clip(max=steps)


def permute(number: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the image of each number (int64, below its `size`) under the permutation of [0, size) of its key (uint64).

    >>> sorted(permute(np.arange(5), np.full(5, 5), np.full(5, 7, np.uint64)).tolist())
    [0, 1, 2, 3, 4]
    """
    limit, value = size.astype(np.uint64), number.astype(np.uint64)
    width = np.maximum(2, np.frexp((size - 1).astype(np.float64))[1]).astype(np.uint64)  # bits of the largest number
    outside = np.arange(len(value))
    while len(outside):
        value[outside] = _feistel(value[outside], width[outside], key[outside])
        outside = outside[value[outside] >= limit[outside]]
    return value.astype(np.int64)


def _feistel(value: np.ndarray, width: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Permute the numbers of `width` bits: each round adds a hash of one part to the other, and swaps the two."""
    one = np.uint64(1)
    low_bits = width // np.uint64(2)
    for round_key in _ROUND_KEYS:
        high_bits = width - low_bits
        high, low = value >> low_bits, value & ((one << low_bits) - one)
        mixed = (high + _mix(low ^ (key + round_key))) & ((one << high_bits) - one)
        value, low_bits = (low << high_bits) | mixed, high_bits
    return value


def _mix(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64 (Steele et al. 2014) of each uint64."""
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLY_1
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLY_2
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
