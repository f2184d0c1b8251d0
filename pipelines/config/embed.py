"""Configuration of jobs.embed: a checkpoint, a corpus, and where the vectors are written."""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from xmodal.data.formats.embedding_parts import VectorDType
from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

Modality = Literal["image", "text", "video", "audio"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What is embedded with what, and where the vectors are written."""

    checkpoint: tyro.conf.Positional[str]  # a run, whose newest valid checkpoint is taken, or one of its checkpoints
    corpus: tyro.conf.Positional[str]  # a folder of shards, one shard, or a pattern of shards
    to: str  # folder or s3:// URI for part-*.parquet; it holds the vectors of one checkpoint and one corpus
    modalities: tuple[Modality, ...] = ()
    """modalities that are embedded; empty: both of the checkpoint. All captions of an image
    are embedded"""
    dtype: VectorDType = "float32"  # number format of the vectors; float16 halves the size of the folder
    fields: tuple[str, ...] = ()
    """field map, which says where a row has its fields, e.g. image=jpg|png text=json:caption;
    empty: the usual names, of clips the field map of the training"""
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside the corpus
    batch_size: int = 256  # number of rows that are encoded at once
    rows_per_part: int | None = None  # number of rows in a file; None: about 64 files, of 1,024 to 32,768 rows
    workers: int | None = None  # number of encoders; None: one for each GPU, or for each core where there is no GPU
    overwrite: bool = False  # delete the embeddings in the folder and start again
    gpus_per_worker: float | None = None
    """number of GPUs of each encoder; None: 1 where the cluster has that many GPUs, else 0"""
    cpus_per_worker: float | None = None  # number of CPUs of each encoder; None: what leaves enough CPUs for reading
    address: str | None = None
    """address of a running Ray cluster, e.g. 10.0.0.5:6379; None: RAY_ADDRESS, else a Ray is
    started on this machine"""
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        for name in ("batch_size", "rows_per_part", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if len(set(self.modalities)) < len(self.modalities):
            raise ConfigError(f"modalities={list(self.modalities)}: name each once")
