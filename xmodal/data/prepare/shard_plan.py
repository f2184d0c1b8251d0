"""Plan the shards of a listing: which row goes into which shard, and which rows the listing shows to be unusable."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xmodal import storage
from xmodal.data.prepare.pair_reader import pair_hash, resolve_path
from xmodal.data.prepare.pairs import PairListing
from xmodal.errors import BadSample
from xmodal.storage import StorageOptions

ROWS_PER_SHARD = 1024
_PARALLEL_STATS = 32


@dataclass(frozen=True, eq=False)
class ShardPlan:
    """Which rows go into which shard, and records of the rows that the listing alone shows to be unusable."""

    listing: PairListing
    usable: np.ndarray  # int64, positions in the listing
    starts: np.ndarray  # int64, position in `usable` where each shard begins
    rejected: list[dict[str, Any]]

    def shard(self, number: int) -> pa.Table:
        """Return the rows of one shard."""
        stop = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.usable)
        return self.listing.table.take(pa.array(self.usable[self.starts[number] : stop]))


def plan_shards(
    listing: PairListing,
    *,
    rows_per_shard: int | None = None,
    bytes_per_shard: int | None = None,
    seed: int | None = None,
    options: StorageOptions | None = None,
) -> ShardPlan:
    """Reject the rows that the listing alone shows to be unusable, and split the others into shards.

    A shard holds `rows_per_shard` rows or, where that is not given, about `bytes_per_shard` bytes of images. With a
    `seed` the usable rows are permuted; each shard then holds its rows in random order.
    """
    usable, hashes, rejected = [], [], []
    position = 0
    for batch in listing.table.to_batches(max_chunksize=1 << 14):
        for row in batch.to_pylist():
            try:
                hashes.append(_check_row(row, listing.base))
                usable.append(position)
            except BadSample as fault:
                rejected.append(rejection_record(row, fault))
            position += 1
    _, first = np.unique(np.array(hashes, np.uint64), return_index=True)
    repeated = np.setdiff1d(np.arange(len(usable)), first)
    positions = np.array(usable, np.int64)
    duplicate = BadSample("duplicate_key", "the same image and caption stand in an earlier row")
    repeated_rows = listing.table.take(pa.array(positions[repeated])).to_pylist()
    rejected += [rejection_record(row, duplicate) for row in repeated_rows]
    positions = positions[np.sort(first)]
    if seed is not None:
        draw = np.random.Philox(np.random.SeedSequence(seed)).random_raw(
            len(positions)
        )  # numpy guarantees both streams
        positions = positions[np.argsort(draw, kind="stable")]
    if rows_per_shard or not bytes_per_shard:
        starts = np.arange(0, len(positions), rows_per_shard or ROWS_PER_SHARD)
    else:
        starts = _cut(_sizes(listing, positions, options or StorageOptions()), bytes_per_shard)
    return ShardPlan(listing, positions, starts, rejected)


def _check_row(row: dict[str, Any], base: str) -> int:
    """Return the hash of a row's pair; BadSample where the row is unusable."""
    if row["reason"] is not None:
        raise BadSample(row["reason"], row["detail"])
    return pair_hash(resolve_path(row["image"], base), row["caption"])


def _cut(sizes: np.ndarray, bytes_per_shard: int) -> np.ndarray:
    """Return where shards begin: at the first row after each whole multiple of `bytes_per_shard`."""
    before = np.cumsum(sizes) - sizes
    return np.flatnonzero(np.diff(before // bytes_per_shard, prepend=-1))


def _sizes(listing: PairListing, positions: np.ndarray, options: StorageOptions) -> np.ndarray:
    """Return the bytes of each image: int64; 0 where it is missing."""

    def size(row: dict[str, Any]) -> int:
        try:
            uri = storage.join(listing.base, resolve_path(row["image"], listing.base))
            return row["size"] or storage.stat(uri, options=options).size
        except storage.NotFound:
            return 0

    with ThreadPoolExecutor(_PARALLEL_STATS) as pool:
        return np.fromiter(pool.map(size, listing.table.take(pa.array(positions)).to_pylist()), np.int64)


def rejection_record(row: dict[str, Any], fault: BadSample) -> dict[str, object]:
    """Return the record of a rejected row: row, image, reason and detail."""
    image = (row["image"] or b"").decode(errors="backslashreplace")
    return {"row": row["row"], "image": image, "reason": fault.reason, "detail": fault.detail}
