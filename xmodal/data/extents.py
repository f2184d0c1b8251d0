"""What a corpus is once it is indexed: shards, extents (contiguous runs of samples), and the damage that was found.

R: rows, i.e. samples that can be delivered.  E: extents.  Everything here is a plain value; building and reading
are in `corpus.py` and below it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from xmodal.errors import BadSample
from xmodal.storage import StorageOptions

Format = Literal["tar", "parquet"]
DEFAULT = StorageOptions()


@dataclass(frozen=True)
class Shard:
    """One file of a corpus. `coding` is "gzip" for a compressed tar, whose offsets count decompressed bytes.

    `rows` counts the samples that its extents deliver; `fields` names what they hold (tar extensions, Parquet columns)
    and `kinds`, for Parquet only, says of which kind each column is (`xmodal.data.formats.parquet.kind`).
    """

    path: str  # relative to the corpus
    size: int  # bytes
    etag: str
    rows: int
    coding: str = ""
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Damage:
    """Something at `offset` of a shard that belongs to no extent; `reason` is one word, `detail` is for a person."""

    shard: str
    offset: int
    reason: str
    detail: str = ""


def damage_summary(damage: Iterable[Damage]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    return dict(Counter(item.reason for item in damage).most_common())


@dataclass(frozen=True, eq=False)
class Extents:
    """E contiguous runs of samples, in the order of shards and of rows inside a shard; arrays of length E.

    A Parquet extent is a run of rows of one row group: `offset` and `length` are the row group's bytes, so the extents
    of a split row group share them. `sha256`, where the corpus was hashed, is over exactly these bytes: uint8 [E, 32].
    """

    shard: np.ndarray  # int32, index into the shards
    first_row: np.ndarray  # int64, row number inside the shard
    rows: np.ndarray  # int32, at least 1
    offset: np.ndarray  # int64, bytes
    length: np.ndarray  # int64, bytes
    sha256: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {field.name: len(array) for field in fields(self) if (array := getattr(self, field.name)) is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of extents differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: np.ndarray) -> "Extents":
        """The chosen extents (indices or a mask), shard numbers unchanged."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: array[which] for name, array in columns.items() if array is not None})

    @staticmethod
    def of(spans: Iterable[tuple[int, int, int, int, int]], sha256: np.ndarray | None = None) -> "Extents":
        """From rows of (shard, first_row, rows, offset, length)."""
        table = np.array(list(spans), dtype=np.int64).reshape(-1, 5)
        shard, first_row, rows, offset, length = (np.ascontiguousarray(column) for column in table.T)
        return Extents(shard.astype(np.int32), first_row, rows.astype(np.int32), offset, length, sha256)

    @staticmethod
    def join(parts: Iterable["Extents"]) -> "Extents":
        """One after the other; hashes are kept only if all parts have them."""
        parts = list(parts) or [Extents.of(())]
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(Extents)):
            arrays = [getattr(part, name) for part in parts]
            columns[name] = None if any(array is None for array in arrays) else np.concatenate(arrays)
        return Extents(**columns)


Span = tuple[int, int, int, int]  # first row, rows, offset, length


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What walking one shard found: runs of samples, what the samples hold (see `Shard`), and the damage."""

    spans: tuple[Span, ...] = ()
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    damage: tuple[Damage, ...] = ()

    @property
    def rows(self) -> int:
        return sum(rows for _, rows, _, _ in self.spans)


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard. Its extents carry shard number 0; `shard` says what it was when it was read."""

    shard: Shard
    extents: Extents
    damage: tuple[Damage, ...] = ()


@dataclass(slots=True)
class RawSample:
    """One sample as it is stored, or the reason why it cannot be delivered.

    `members` maps a tar extension (lower case, `seg.png` if compound) to bytes, or a Parquet column to its value.
    `offset` is the byte offset of a tar sample, the row number inside the file for Parquet.
    """

    key: str
    offset: int
    members: dict[str, Any] | None
    fault: BadSample | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """An indexed corpus: R rows in E extents. `uri` is the folder that shard paths are relative to.

    Rows are numbered along the extents. It pickles as its arrays and names; `options` holds no secret.
    """

    uri: str
    format: Format
    shards: tuple[Shard, ...]
    extents: Extents
    damage: tuple[Damage, ...] = ()
    options: StorageOptions = DEFAULT
    ignored: tuple[str, ...] = ()  # the first hundred objects beside the shards that are no shards

    @cached_property
    def row_start(self) -> np.ndarray:
        """int64 [E]: the number of each extent's first row."""
        ends = np.cumsum(self.extents.rows, dtype=np.int64)
        return ends - self.extents.rows

    @cached_property
    def rows(self) -> int:
        return int(self.extents.rows.sum(dtype=np.int64))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Every tar extension or Parquet column that some shard holds, sorted."""
        return tuple(sorted({name for shard in set(s.fields for s in self.shards) for name in shard}))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when shards, extents or hashes do; not when the corpus is copied elsewhere.

        So etags stay out of it: a local one is a time stamp.
        """
        digest = hashlib.sha256(self.format.encode())
        for shard in self.shards:
            digest.update(f"{shard.path}\0{shard.size}\0{shard.rows}\n".encode(errors="backslashreplace"))
        for field in fields(self.extents):
            array = getattr(self.extents, field.name)
            digest.update(b"" if array is None else np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
