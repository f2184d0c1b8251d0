"""Corpora and how they are read: where the pairs of a run come from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.data.decode.fields import parse_field_map
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where pairs come from and how they are read."""

    corpus: tuple[str, ...]  # URIs of one corpus or of a mixture: folders or single shards, tar or Parquet
    weights: tuple[float, ...] = ()  # each corpus's share of every batch; empty: in proportion to its rows
    fields: tuple[str, ...] = ()  # field map, e.g. image=jpg|png text=json:caption; empty: the usual names
    index: str | None = None  # URI of a cache for indexes; None: beside each corpus
    hash_extents: bool = False  # keep a SHA-256 of every extent in the index and check it at every read
    max_bad_fraction: float = 0.01  # the run stops when more of its rows than this had to be masked
    rows_per_task: int = 1024  # rows read and shuffled together by one read task; bounds its memory
    tasks_per_segment: int = 4096  # read tasks of one Ray Dataset; a new one costs seconds
    cache: str | None = None  # folder of each machine for decoded blocks, auto (~/.cache) or off; None: auto in a sweep
    cache_gb: float = 8.0  # what that folder may hold; blocks beyond it are decoded at every turn
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

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
                f"cache={self.cache}: decoded blocks are mapped from a disk; give a local folder, or auto"
            )
        if not 0 < self.cache_gb < math.inf:
            raise ConfigError(f"cache_gb={self.cache_gb} must be above 0 and finite; --cache off keeps nothing")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )


def check_fields(specs: Sequence[str], names: Sequence[str]) -> None:
    """ConfigError where `specs` cannot be the map of `names` for any corpus."""
    for field in parse_field_map(specs).sources if specs else ():
        if field not in names:
            raise ConfigError(f"the field map has an unknown field {field!r}: {nearest(field, names)}")
