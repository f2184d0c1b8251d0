"""Configuration of jobs.inspect: a corpus, and how much of it is read."""

from dataclasses import dataclass, field

import tyro

from pipelines.config.data import check_fields
from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

FIELDS = ("image", "text")
TERMINAL = "-"


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Which corpus is inspected, and how much of it."""

    corpus: tyro.conf.Positional[str]  # a folder of shards, one shard, or a pattern of shards; tar or Parquet
    grid: str | None = None
    """PNG file for a grid of sample images, local or s3://, or - to draw it in the terminal;
    None: no grid"""
    pictures: int = 24  # number of images in the grid, from 1 to 600
    rows: int = 5000  # number of rows that are read and decoded, spread evenly over a larger corpus
    fields: tuple[str, ...] = ()
    """field map, which says where a row has its fields, e.g. image=jpg|png text=json:caption;
    empty: the usual names"""
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside the corpus
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(f"rows={self.rows} must be at least 1")
        if not 1 <= self.pictures <= 600:
            raise ConfigError(f"pictures={self.pictures} must lie in 1..600")
        check_fields(self.fields, FIELDS)
