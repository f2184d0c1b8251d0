"""A cache of decoded blocks in files on the local disk.

The cached rows are exactly those that are delivered, with augmentation: a crop decides how far a JPEG is scaled while
it is decoded, and a caption is chosen before it is tokenised, so that no earlier stage could be cached and give the
same bits. Rows depend on extents, seed, epoch and fields, and that is the key; all runs that agree in these share the
files: trials of a sweep, arms of a comparison, a run that is started again. The number of workers and the size of
blocks are not in the key. Another seed gives another order and other crops, and is decoded again.

A file holds the rows of one task in the order of delivery, column after column, then a description in JSON. It is
written under a temporary name and renamed. Its checksum is compared whenever it is opened; a damaged file is removed
and decoded again. Masked rows stay masked, with their reason; a task with rows that storage could not deliver is not
cached. A full folder takes no more files, except for the space of those that were not read for a week.
"""

import json
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import metadata
from math import prod
from pathlib import Path

import numpy as np

from xmodal.data.formats.extent_store import ExtentStore
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import Block, BlockTask, RowDecoder

AUTO = "auto"
BLOCKS_SUFFIX, PARTIAL_SUFFIX = ".blocks", ".begun"
FOOTER_BYTES = 8  # the length of the description
ALIGNMENT = 64
PARTIAL_MAX_AGE_S, UNUSED_MAX_AGE_S = 3600.0, 7 * 86_400.0  # of an unfinished file; of one that is not read
RESERVED_DISK_SHARE = 0.05  # of the disk that is never used
TRANSIENT_REASONS = frozenset({"shard_missing", "shard_changed", "extent_short", "hash_mismatch"})  # may be repaired
KEY_PACKAGES = ("xmodal", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "av", "soundfile", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class BlockCache:
    """The cache of the machine that reads: its folder (`auto`: in the user's cache folder), and its limit in bytes."""

    folder: str
    limit_bytes: int

    @property
    def directory(self) -> Path:
        """Path of the folder."""
        if self.folder != AUTO:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmodal" / "blocks"


def read_cached_blocks(
    task: BlockTask,
    decoder: RowDecoder,
    cache: BlockCache | None,
    *,
    store: ExtentStore | None = None,
    new_block: Callable[[RowDecoder, int], Block] | None = None,
) -> Iterator[Block]:
    """Yield the same blocks as `blocks.read_blocks`, from the cache if possible, and cache them otherwise.

    Blocks from the cache are views of a memory-mapped file and must not be written to.
    """
    if cache is None:
        yield from blocks.read_blocks(task, decoder, store=store, new_block=new_block)
        return
    path = cache.directory / f"{cache_key(task, decoder)}{BLOCKS_SUFFIX}"
    skip, stop = task.read_task.skip, task.read_task.stop
    rows = _open(path, decoder, stop)
    if rows is not None:
        for start in range(skip, stop, task.rows_per_block):
            yield {name: array[start : min(start + task.rows_per_block, stop)] for name, array in rows.items()}
        return
    decoded = blocks.read_blocks(task, decoder, store=store, new_block=new_block)
    yield from _write_through(decoded, path, decoder, stop, cache) if skip == 0 else decoded


def cache_key(task: BlockTask, decoder: RowDecoder) -> str:
    """Return 32 hex digits of everything that the task's rows depend on; a field counts with its `repr`."""
    e, read_task = task.corpus.extents, task.read_task
    taken = [[piece.extent, piece.first, piece.rows] for piece in read_task.slices]
    slices = []
    for number, first_row in enumerate(task.first_rows.tolist()):
        piece = taken[number] if taken else [number]
        n = piece[0]
        shard = task.corpus.shards[int(e.shard[n])]
        sha = "" if e.sha256 is None else e.sha256[n].tobytes().hex()
        span = [int(e.first_row[n]), int(e.rows[n]), int(e.offset[n]), int(e.length[n])]
        slices.append([shard.path, shard.size, shard.etag, *span, sha, first_row, *piece[1:]])
    order: list[object] = [read_task.seed, read_task.epoch, read_task.index, read_task.rows, read_task.shuffle]
    if read_task.picks is not None:
        order.append(sha256(read_task.picks.tobytes()).hexdigest())
    inputs = {
        "made by": _package_versions(),
        "corpus": [task.corpus.uri, task.corpus.format, slices],
        "order": order,
        "recipe": [decoder.field_map.specs, [repr(field) for field in decoder.fields]],
    }
    return sha256(json.dumps(inputs).encode()).hexdigest()[:32]


@cache
def _package_versions() -> list[str]:
    versions = []
    for name in KEY_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return versions


def _open(path: Path, decoder: RowDecoder, rows: int) -> Block | None:
    """Return the columns of a valid file of at least `rows` rows; None where there is none. Remove a damaged file."""
    try:
        data = np.memmap(path, np.uint8, "r")
    except (FileNotFoundError, ValueError):  # ValueError: it is empty
        return None
    try:
        length = int.from_bytes(data[-FOOTER_BYTES:].tobytes(), "little")
        end = len(data) - FOOTER_BYTES - length
        description = json.loads(data[end : end + length].tobytes())
        if zlib.crc32(data[:end].data) != description["crc32"]:
            raise ValueError("its checksum is wrong")
        layout, stored = _layout(decoder, description["rows"]), description["rows"]
        columns = {
            name: data[at : at + size].view(decoder.columns[name].dtype).reshape(stored, *decoder.columns[name].shape)
            for name, (at, size) in layout.items()
        }
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None
    if stored < rows:  # a shorter run wrote it
        return None
    with suppress(OSError):
        os.utime(path)  # mark it as in use
    return {name: np.asarray(array) for name, array in columns.items()}


def _layout(decoder: RowDecoder, rows: int) -> dict[str, tuple[int, int]]:
    """Return the offset and the size in bytes of each column."""
    layout, offset = {}, 0
    for name, column in decoder.columns.items():
        size = rows * np.dtype(column.dtype).itemsize * prod(column.shape)
        layout[name] = (offset, size)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return layout


def _write_through(
    decoded: Iterator[Block], path: Path, decoder: RowDecoder, rows: int, cache: BlockCache
) -> Iterator[Block]:
    """Yield blocks while caching them; I/O errors of the cache are ignored."""
    columns = _layout(decoder, rows)
    size = max(at + -(-length // ALIGNMENT) * ALIGNMENT for at, length in columns.values())
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    target = _create_partial(partial, size, cache)
    done, permanent = 0, True
    try:
        for block in decoded:
            if target is not None:
                count = len(block["row"])
                reasons = {fault.get("reason") for fault in blocks.block_faults(block)}
                permanent = permanent and not reasons & TRANSIENT_REASONS
                for name, (at, length) in columns.items():
                    width = length // rows
                    raw = np.ascontiguousarray(block[name]).view(np.uint8).reshape(-1)
                    target[at + done * width : at + (done + count) * width] = raw
                done += count
            yield block
        if target is not None and permanent and done == rows:
            _finish(partial, path, target, rows)
    finally:
        partial.unlink(missing_ok=True)


def _create_partial(partial: Path, size: int, cache: BlockCache) -> np.memmap | None:
    """Create a file of `size` bytes and map it; None where there is no space, or the disk fails."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if not _make_space(partial.parent, size, cache.limit_bytes):
            return None
        with partial.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # so that a full disk raises an error here, not a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        return np.memmap(partial, np.uint8, "r+")
    except OSError:
        return None


def _finish(partial: Path, path: Path, target: np.memmap, rows: int) -> None:
    """Append the description to a complete file and give it its final name."""
    description = json.dumps({"rows": rows, "crc32": zlib.crc32(target.data)}).encode()
    with suppress(OSError), partial.open("ab") as file:
        file.write(description + len(description).to_bytes(FOOTER_BYTES, "little"))
        file.close()
        partial.replace(path)


def _make_space(folder: Path, size: int, limit: int) -> bool:
    """Remove stale and unused files; return whether `size` more bytes keep within the limit and the disk's reserve."""
    now, total = time.time(), 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                status = entry.stat()
                age = now - status.st_mtime
                if age > (PARTIAL_MAX_AGE_S if entry.name.endswith(PARTIAL_SUFFIX) else UNUSED_MAX_AGE_S):
                    os.unlink(entry.path)
                else:
                    total += status.st_size
    disk = shutil.disk_usage(folder)
    return total + size <= limit and disk.free - size > RESERVED_DISK_SHARE * disk.total
