"""Configuration of the corpora that a run reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from xmodal.data.decode.fields import parse_field_map
from xmodal.data.stream.order import SHUFFLES, Shuffle
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which corpora are read, and how."""

    corpus: tuple[str, ...]  # URIs of one corpus or of several that are mixed: folders or single shards, tar or Parquet
    weights: tuple[float, ...] = ()
    """share of each corpus in every batch, e.g. 3 1; empty: in proportion to its number of
    rows"""
    fields: tuple[str, ...] = ()
    """field map, which says where a row has its fields, e.g. image=jpg|png text=json:caption;
    empty: the usual names"""
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside each corpus
    hash_extents: bool = False  # store a SHA-256 of every extent in the index and check it at every read
    max_bad_fraction: float = 0.01  # share of rows, from 0 to 1, that may be damaged before the run stops
    shuffle: Shuffle = "wide"
    """how rows are mixed: off (the order of the corpus), task (the rows of a read task, which come
    from a few neighbouring runs; reads least), wide (every batch has rows from hundreds of runs;
    encoded rows wait for their step on the local disk, some 100 batches of them) or full (one
    permutation of all rows; the corpus passes through the local disk, which should hold it)"""
    shuffle_gb: float = 16.0
    """gigabytes of each machine's disk for the rows that wait, of remote or Parquet shards; what
    does not fit is read again"""
    shuffle_folder: str = "auto"  # folder on each machine for these rows; auto: a folder in ~/.cache
    rows_per_task: int = 1024  # number of rows that one read task reads; more rows take more memory
    tasks_per_segment: int = 4096
    """largest number of read tasks in one Ray Dataset, of which a run starts one after the other; the
    memory of the first worker grows with it"""
    cache: str | None = None
    """folder on each machine for decoded blocks, auto (a folder in ~/.cache) or off; None:
    auto in a sweep, else off"""
    cache_gb: float = 8.0  # gigabytes that the cache may hold; further blocks are decoded each time
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ConfigError("no corpus: give at least one, e.g. --corpus s3://bucket/shards")
        if self.weights and len(self.weights) != len(self.corpus):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.corpus)} corpora: give one for each, or none")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigError(f"weights must be positive, not {list(self.weights)}; leave a corpus out instead")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"max_bad_fraction must lie in [0, 1], not {self.max_bad_fraction}")
        if self.rows_per_task < 1 or self.tasks_per_segment < 1:
            raise ConfigError("rows_per_task and tasks_per_segment must be at least 1")
        if self.cache is not None and "://" in self.cache:
            raise ConfigError(
                f"cache={self.cache}: decoded blocks are memory-mapped from a disk; give a local folder, or auto"
            )
        if self.shuffle not in SHUFFLES:
            raise ConfigError(f"shuffle={self.shuffle!r}: {nearest(self.shuffle, SHUFFLES)}")
        if not 0 < self.shuffle_gb < math.inf:
            raise ConfigError(
                f"shuffle_gb={self.shuffle_gb} must be above 0 and finite; --shuffle task needs no room on the disk"
            )
        if "://" in self.shuffle_folder:
            raise ConfigError(
                f"shuffle_folder={self.shuffle_folder}: rows wait on a local disk; give a local folder, or auto"
            )
        if not 0 < self.cache_gb < math.inf:
            raise ConfigError(f"cache_gb={self.cache_gb} must be above 0 and finite; --cache off stores nothing")


def check_fields(specs: Sequence[str], names: Sequence[str]) -> None:
    """Raise ConfigError where a field map names a field that is none of `names`."""
    for name in parse_field_map(specs).sources if specs else ():
        if name not in names:
            raise ConfigError(f"the field map has an unknown field {name!r}: {nearest(name, names)}")
