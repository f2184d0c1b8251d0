"""What jobs.inspect is asked: a corpus, and how closely to look."""

from dataclasses import dataclass

import tyro

from pipelines.config.data import check_fields
from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

FIELDS = ("image", "text")
TERMINAL = "-"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which corpus to look at, and how closely."""

    corpus: tyro.conf.Positional[str]  # a folder of shards, one shard, or a pattern; tar or Parquet
    grid: str | None = None  # a picture of samples: where to write it (PNG, local or s3://), or - for the terminal
    pictures: int = 24  # in the grid
    rows: int = 5000  # rows that are read and decoded; of a larger corpus an even sample
    fields: tuple[str, ...] = ()  # field map, e.g. image=jpg|png text=json:caption; empty: the usual names
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(f"rows={self.rows} must be at least 1")
        if not 1 <= self.pictures <= 600:
            raise ConfigError(f"pictures={self.pictures} must lie in 1..600")
        check_fields(self.fields, FIELDS)

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
