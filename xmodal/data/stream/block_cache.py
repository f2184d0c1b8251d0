"""Read tasks in; their blocks out, decoded the first time and mapped from a file of this machine ever after.

What is kept is what is delivered, augmentation and all: a crop decides how far a JPEG is scaled while it is decoded,
and a caption is drawn before it is tokenised, so that no earlier stage could be kept and give the same bits. Rows are
a function of extents, seed, epoch and what decodes them; that is the key, and all runs that agree in these share them:
trials of a sweep, arms of a comparison, a run that is begun again. Workers and the size of blocks are no part of it.
Another seed is another order and other crops, and is decoded anew.

A file holds the rows of one task in the order of delivery, column after column, then a description in JSON. It is
written beside its place and renamed; its checksum is compared whenever it is opened, and what does not hold is removed
and decoded again. Rows that were masked come masked, for the reason they had; a task with rows that the store could
not give is not kept. A folder that is full takes no more, but for the room of what nobody has read for a week.
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
from typing import Any

import numpy as np

from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import Block, ReadTask, Recipe

AUTO = "auto"
ENDING, BEGUN = ".blocks", ".begun"
FOOTER_BYTES = 8  # how long the description is
ALIGNMENT = 64
STALE_S, FORGOTTEN_S = 3600.0, 7 * 86_400.0  # of a file that was begun; of one that nobody reads
SPARE = 0.05  # of the disk that is never taken
OF_THE_STORE = frozenset({"shard_missing", "shard_changed", "extent_short", "hash_mismatch"})  # reasons that may pass
MAKERS = ("xmodal", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "av", "soundfile", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class BlockCache:
    """`folder` of the machine that reads (`auto`: the user's own for caches), and how many bytes it may hold."""

    folder: str
    limit_bytes: int

    @property
    def place(self) -> Path:
        if self.folder != AUTO:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmodal" / "blocks"


def read(
    task: ReadTask,
    recipe: Recipe,
    cache: BlockCache | None,
    *,
    new_block: Callable[[Recipe, int], Block] | None = None,
) -> Iterator[Block]:
    """As `blocks.read`, bit for bit; blocks of kept rows are views of a mapped file and must not be written to."""
    if cache is None:
        yield from blocks.read(task, recipe, new_block=new_block)
        return
    path = cache.place / f"{key_of(task, recipe)}{ENDING}"
    wanted = task.task
    kept = _open(path, recipe, wanted.stop)
    if kept is not None:
        for start in range(wanted.skip, wanted.stop, task.rows_per_block):
            yield {name: array[start : min(start + task.rows_per_block, wanted.stop)] for name, array in kept.items()}
        return
    decoded = blocks.read(task, recipe, new_block=new_block)
    yield from _keeping(decoded, path, recipe, wanted.stop, cache) if wanted.skip == 0 else decoded


def key_of(task: ReadTask, recipe: Recipe) -> str:
    """32 hex digits of all that the task's rows are a function of; of a field, its `repr` says what it decodes by."""
    e, own = task.corpus.extents, task.task
    parts = []
    for first_row, part in zip(task.first_rows, own.parts, strict=True):
        n = part.extent
        shard = task.corpus.shards[int(e.shard[n])]
        checked = "" if e.sha256 is None else e.sha256[n].tobytes().hex()
        span = [int(e.first_row[n]), int(e.rows[n]), int(e.offset[n]), int(e.length[n])]
        parts.append([shard.path, shard.size, shard.etag, *span, checked, first_row, part.first, part.rows])
    said = {
        "made by": _makers(),
        "corpus": [task.corpus.uri, task.corpus.format, parts],
        "order": [own.seed, own.epoch, own.index, own.rows, own.shuffle],
        "recipe": [recipe.field_map.specs, [repr(field) for field in recipe.fields]],
    }
    return sha256(json.dumps(said).encode()).hexdigest()[:32]


@cache
def _makers() -> list[str]:
    found = []
    for name in MAKERS:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


def _open(path: Path, recipe: Recipe, rows: int) -> Block | None:
    """The columns of a file that holds at least `rows` rows and is what was written; None where there is none."""
    try:
        data = np.memmap(path, np.uint8, "r")
    except (FileNotFoundError, ValueError):  # ValueError: it is empty
        return None
    try:
        length = int.from_bytes(data[-FOOTER_BYTES:].tobytes(), "little")
        end = len(data) - FOOTER_BYTES - length
        described = json.loads(data[end : end + length].tobytes())
        if zlib.crc32(data[:end].data) != described["crc32"]:
            raise ValueError("its checksum does not hold")
        columns, stored = _layout(recipe, described["rows"]), described["rows"]
        found = {
            name: data[at : at + size].view(recipe.columns[name].dtype).reshape(stored, *recipe.columns[name].shape)
            for name, (at, size) in columns.items()
        }
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None
    if stored < rows:  # a shorter run wrote it
        return None
    with suppress(OSError):
        os.utime(path)  # somebody reads it
    return {name: np.asarray(array) for name, array in found.items()}


def _layout(recipe: Recipe, rows: int) -> dict[str, tuple[int, int]]:
    """Where each column begins, and its bytes."""
    found, at = {}, 0
    for name, column in recipe.columns.items():
        size = rows * np.dtype(column.dtype).itemsize * prod(column.shape)
        found[name] = (at, size)
        at += -(-size // ALIGNMENT) * ALIGNMENT
    return found


def _keeping(decoded: Iterator[Block], path: Path, recipe: Recipe, rows: int, cache: BlockCache) -> Iterator[Block]:
    """Pass the blocks on and write them down; the disk's own troubles are nobody else's."""
    columns = _layout(recipe, rows)
    size = max(at + -(-length // ALIGNMENT) * ALIGNMENT for at, length in columns.values())
    begun = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{BEGUN}")
    target = _begin(begun, size, cache)
    done, sound = 0, True
    try:
        for block in decoded:
            if target is not None:
                count = len(block["row"])
                sound = sound and not any(fault.get("reason") in OF_THE_STORE for fault in blocks.faults(block))
                for name, (at, length) in columns.items():
                    width = length // rows
                    raw = np.ascontiguousarray(block[name]).view(np.uint8).reshape(-1)
                    target[at + done * width : at + (done + count) * width] = raw
                done += count
            yield block
        if target is not None and sound and done == rows:
            _finish(begun, path, target, rows)
    finally:
        begun.unlink(missing_ok=True)


def _begin(begun: Path, size: int, cache: BlockCache) -> np.memmap | None:
    try:
        begun.parent.mkdir(parents=True, exist_ok=True)
        if not _has_room(begun.parent, size, cache.limit_bytes):
            return None
        with begun.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told here, and not by a signal
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        return np.memmap(begun, np.uint8, "r+")
    except OSError:
        return None


def _finish(begun: Path, path: Path, target: np.memmap, rows: int) -> None:
    described = json.dumps({"rows": rows, "crc32": zlib.crc32(target.data)}).encode()
    with suppress(OSError), begun.open("ab") as file:
        file.write(described + len(described).to_bytes(FOOTER_BYTES, "little"))
        file.close()
        begun.replace(path)


def _has_room(folder: Path, size: int, limit: int) -> bool:
    """Whether the folder may take so much more, once what was given up or forgotten is gone."""
    now, total = time.time(), 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                known: Any = entry.stat()
                age = now - known.st_mtime
                if age > (STALE_S if entry.name.endswith(BEGUN) else FORGOTTEN_S):
                    os.unlink(entry.path)
                else:
                    total += known.st_size
    disk = shutil.disk_usage(folder)
    return total + size <= limit and disk.free - size > SPARE * disk.total
