"""The values that describe an indexed corpus: shards, extents (contiguous runs of samples), and damage.

R: rows, i.e. samples that can be delivered.  E: extents.  Nothing here reads or writes; `xmodal.data.index` builds an
index, `xmodal.data.formats` reads extents.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from xmodal.errors import BadSample
from xmodal.storage import StorageOptions

ShardFormat = Literal["tar", "parquet"]
DEFAULT_STORAGE = StorageOptions()


@dataclass(frozen=True)
class Shard:
    """One file of a corpus.

    `coding` is "gzip" for a compressed tar, whose offsets count decompressed bytes. `rows` is the number of samples in
    its extents, `fields` are the names of their members (tar extensions or Parquet columns). For Parquet only, `kinds`
    are the kinds of the columns (`xmodal.data.formats.parquet.column_kind`).
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
    """Bytes at `offset` of a shard that cannot be used; `reason` is a fixed word, `detail` is for a person."""

    shard: str
    offset: int
    reason: str
    detail: str = ""


def damage_summary(damage: Iterable[Damage]) -> dict[str, int]:
    """Count how often each reason occurs, the most frequent first.

    >>> damage_summary([Damage("0.tar", 0, "bad_size"), Damage("1.tar", 512, "bad_size")])
    {'bad_size': 2}
    """
    return dict(Counter(item.reason for item in damage).most_common())


@dataclass(frozen=True, eq=False)
class Extents:
    """E contiguous runs of samples as arrays of length E, in the order of shards and of rows inside a shard.

    A Parquet extent is a run of rows of one row group: `offset` and `length` are the row group's bytes, so the extents
    of a split row group share them. `sha256` (uint8 [E, 32]) is the hash of exactly these bytes; None where the corpus
    was indexed without hashes.
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

    def take(self, selection: np.ndarray) -> "Extents":
        """Return the selected extents (by indices or a mask), with unchanged shard numbers."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: array[selection] for name, array in columns.items() if array is not None})

    @staticmethod
    def from_spans(spans: Iterable[tuple[int, int, int, int, int]], sha256: np.ndarray | None = None) -> "Extents":
        """Build extents from tuples of (shard, first_row, rows, offset, length).

        >>> Extents.from_spans([(0, 0, 100, 0, 51200), (0, 100, 40, 51200, 20480)]).rows
        array([100,  40], dtype=int32)
        """
        table = np.array(list(spans), dtype=np.int64).reshape(-1, 5)
        shard, first_row, rows, offset, length = (np.ascontiguousarray(column) for column in table.T)
        return Extents(shard.astype(np.int32), first_row, rows.astype(np.int32), offset, length, sha256)

    @staticmethod
    def concatenate(parts: Iterable["Extents"]) -> "Extents":
        """Concatenate extents; the result has hashes only if all parts have them."""
        parts = list(parts) or [Extents.from_spans(())]
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(Extents)):
            arrays = [getattr(part, name) for part in parts]
            columns[name] = None if any(array is None for array in arrays) else np.concatenate(arrays)
        return Extents(**columns)


RowSpan = tuple[int, int, int, int]  # first row, rows, offset, length


@dataclass(frozen=True, kw_only=True)
class ShardContents:
    """What one shard contains: runs of samples, names and kinds of their members (see `Shard`), and damage."""

    spans: tuple[RowSpan, ...] = ()
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    damage: tuple[Damage, ...] = ()

    @property
    def rows(self) -> int:
        """Number of samples in all runs."""
        return sum(rows for _, rows, _, _ in self.spans)


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard; the shard number of its extents is 0."""

    shard: Shard
    extents: Extents
    damage: tuple[Damage, ...] = ()


@dataclass(slots=True)
class RawSample:
    """One sample as it is stored, or the reason why it cannot be delivered (`fault`; then `members` is None).

    `members` maps a tar extension (lower case, `seg.png` if compound) to bytes, or a Parquet column to its value.
    `offset` is the byte offset of a tar sample, or the row number inside a Parquet file.
    """

    key: str
    offset: int
    members: dict[str, Any] | None
    fault: BadSample | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """An indexed corpus: R rows in E extents. `uri` is the folder that shard paths are relative to.

    Rows are numbered along the extents. A pickled corpus contains no secret: `options` names credentials at most.
    """

    uri: str
    format: ShardFormat
    shards: tuple[Shard, ...]
    extents: Extents
    damage: tuple[Damage, ...] = ()
    options: StorageOptions = DEFAULT_STORAGE
    ignored: tuple[str, ...] = ()  # paths of the first hundred files in the folder that are not shards

    @cached_property
    def row_start(self) -> np.ndarray:
        """The number of each extent's first row: int64 [E]."""
        starts: np.ndarray = np.cumsum(self.extents.rows, dtype=np.int64) - self.extents.rows
        return starts

    @cached_property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.extents.rows.sum(dtype=np.int64))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The tar extensions or Parquet columns of all shards, sorted."""
        return tuple(sorted({name for shard in set(s.fields for s in self.shards) for name in shard}))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when shards, extents or hashes do, but not when the corpus is copied elsewhere.

        Etags are left out for this: a local one is a time stamp.
        """
        digest = hashlib.sha256(self.format.encode())
        for shard in self.shards:
            digest.update(f"{shard.path}\0{shard.size}\0{shard.rows}\n".encode(errors="backslashreplace"))
        for field in fields(self.extents):
            array = getattr(self.extents, field.name)
            digest.update(b"" if array is None else np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
