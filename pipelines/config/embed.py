"""What jobs.embed is asked: a checkpoint, a corpus, and where the vectors go."""

from dataclasses import dataclass
from typing import Literal

import tyro

from xmodal.data.formats.embedding_parts import DType
from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

Modality = Literal["image", "text", "video", "audio"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to embed with what, and where the vectors go."""

    checkpoint: tyro.conf.Positional[str]  # a run, or one of its checkpoints; the newest that verifies is taken
    corpus: tyro.conf.Positional[str]  # a folder of shards, one shard, or a pattern
    to: str  # the folder for part-*.parquet, local or s3://; of one checkpoint and one corpus
    modalities: tuple[Modality, ...] = ()  # what is embedded; empty: both of the checkpoint's. Of captions every one
    dtype: DType = "float32"  # of the vectors; float16 halves the folder
    fields: tuple[str, ...] = ()
    """field map, e.g. image=jpg text=json:captions; empty: the usual names, of clips the field map of the training"""
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    batch_size: int = 256  # rows encoded at once
    rows_per_part: int | None = None  # rows in a file; None: about 64 files, of 1,024 to 32,768 rows
    workers: int | None = None  # encoders; None: one for each GPU, or for each core where there is none
    overwrite: bool = False  # delete the embeddings that are in the folder, and begin afresh
    gpus_per_worker: float | None = None  # None: 1 where the cluster has that many GPUs, else 0
    cpus_per_worker: float | None = None  # None: what leaves room for reading
    address: str | None = None  # of a running cluster; None: RAY_ADDRESS, else a Ray of our own on this machine
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

    def __post_init__(self) -> None:
        for name in ("batch_size", "rows_per_part", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if len(set(self.modalities)) < len(self.modalities):
            raise ConfigError(f"modalities={list(self.modalities)}: name each once")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
