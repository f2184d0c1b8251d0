"""A listing of pairs comes in; which row goes into which shard, and which rows are refused at sight, goes out."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xmodal import storage
from xmodal.data.prepare.pair_reader import locate, pair_hash
from xmodal.data.prepare.pairs import Pairs
from xmodal.errors import BadSample
from xmodal.storage import StorageOptions

ROWS_PER_SHARD = 1024
_STATS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows go into which shard. `refused` could not be used for what the listing alone shows."""

    listing: Pairs
    usable: np.ndarray  # int64, positions in the listing
    starts: np.ndarray  # int64, position in `usable` where each shard begins
    refused: list[dict[str, Any]]

    def shard(self, number: int) -> pa.Table:
        """The rows of one shard."""
        stop = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.usable)
        return self.listing.table.take(pa.array(self.usable[self.starts[number] : stop]))


def make_plan(
    listing: Pairs,
    *,
    rows_per_shard: int | None = None,
    bytes_per_shard: int | None = None,
    options: StorageOptions | None = None,
) -> Plan:
    """Sort out the rows that the listing alone shows to be unusable, and cut the rest into shards.

    A shard holds `rows_per_shard` rows or, where that is not given, about `bytes_per_shard` bytes of images.
    """
    usable, hashes, refused = [], [], []
    position = 0
    for batch in listing.table.to_batches(max_chunksize=1 << 14):
        for row in batch.to_pylist():
            try:
                hashes.append(_screen(row, listing.base))
                usable.append(position)
            except BadSample as fault:
                refused.append(refusal(row, fault))
            position += 1
    _, first = np.unique(np.array(hashes, np.uint64), return_index=True)
    again = np.setdiff1d(np.arange(len(usable)), first)
    positions = np.array(usable, np.int64)
    repeat = BadSample("duplicate_key", "the same image and caption stand in an earlier row")
    refused += [refusal(row, repeat) for row in listing.table.take(pa.array(positions[again])).to_pylist()]
    positions = positions[np.sort(first)]
    if rows_per_shard or not bytes_per_shard:
        starts = np.arange(0, len(positions), rows_per_shard or ROWS_PER_SHARD)
    else:
        starts = _cut(_sizes(listing, positions, options or StorageOptions()), bytes_per_shard)
    return Plan(listing, positions, starts, refused)


def _screen(row: dict[str, Any], base: str) -> int:
    if row["reason"] is not None:
        raise BadSample(row["reason"], row["detail"])
    return pair_hash(locate(row["image"], base), row["caption"])


def _cut(sizes: np.ndarray, bytes_per_shard: int) -> np.ndarray:
    """Where shards begin: at the first row after each whole multiple of `bytes_per_shard`."""
    before = np.cumsum(sizes) - sizes
    return np.flatnonzero(np.diff(before // bytes_per_shard, prepend=-1))


def _sizes(listing: Pairs, positions: np.ndarray, options: StorageOptions) -> np.ndarray:
    """Bytes of each image: int64; 0 where it is missing."""

    def size(row: dict[str, Any]) -> int:
        try:
            uri = storage.join(listing.base, locate(row["image"], listing.base))
            return row["size"] or storage.stat(uri, options=options).size
        except storage.NotFound:
            return 0

    with ThreadPoolExecutor(_STATS_AT_ONCE) as pool:
        return np.fromiter(pool.map(size, listing.table.take(pa.array(positions)).to_pylist()), np.int64)


def refusal(row: dict[str, Any], fault: BadSample) -> dict[str, Any]:
    """How a refused row stands in the list of them."""
    image = (row["image"] or b"").decode(errors="backslashreplace")
    return {"row": row["row"], "image": image, "reason": fault.reason, "detail": fault.detail}
