"""Configuration of jobs.prepare: a table or folder of images and captions, and the corpus that is made of it."""

from dataclasses import dataclass, field
from typing import get_args

import tyro

from xmodal.data.extents import ShardFormat
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions

FORMATS = get_args(ShardFormat)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What is turned into a corpus, and how. Equal settings on equal sources give equal bytes."""

    source: tyro.conf.Positional[str]
    """a table of image paths and captions, or a folder of images; local or s3://BUCKET/KEY"""
    target: tyro.conf.Positional[str]  # folder for the corpus, local or s3://BUCKET/KEY
    format: ShardFormat = "tar"  # format of the shards: tar (WebDataset) or parquet (Hugging Face datasets)
    rows_per_shard: int | None = None
    """number of rows in a shard; rows that are refused leave a shard smaller; None: 1024,
    unless --shard-mb is given"""
    shard_mb: float | None = None  # megabytes of images in a shard, instead of a number of rows
    image_column: str | None = None  # name of the column of image paths; None: the column with a usual name
    caption_column: str | None = None
    """name of the column of captions, or key in the JSON file beside an image; None: the one
    with a usual name"""
    base: str | None = None  # folder that relative image paths begin at; None: the folder of the table
    shuffle: bool = True
    """write the rows in random order: a table that is sorted, or has the captions of an image one
    below the other, becomes a corpus that mixes well however it is read"""
    seed: int = 0  # chooses the random order
    resize_short_side: int | None = None
    """largest short side in pixels, to which larger images are shrunk; None: images are stored
    unchanged"""
    workers: int | None = None  # number of processes; None: one for each CPU
    overwrite: bool = False  # delete the corpus that an earlier run left in the target, and start again
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"no format {self.format!r}; {nearest(self.format, FORMATS)}")
        if self.rows_per_shard is not None and self.shard_mb is not None:
            raise ConfigError("--rows-per-shard and --shard-mb both set the size of a shard; give one of them")
        for name in ("rows_per_shard", "shard_mb", "resize_short_side", "workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be positive, not {value}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed must lie in 0..2^63 - 1, not {self.seed}")
