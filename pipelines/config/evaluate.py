"""What jobs.evaluate is asked: a checkpoint, corpora, and which figures."""

from dataclasses import dataclass

import tyro

from xmodal.errors import ConfigError
from xmodal.run.directory import check_name
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to evaluate on what."""

    checkpoint: tyro.conf.Positional[str]  # a run, or one of its checkpoints; the newest that verifies is taken
    corpus: tyro.conf.Positional[str]  # rows that the model has not seen
    retrieval: bool = True  # search captions by picture and pictures by caption
    label: str | None = None  # where a row's class is, e.g. cls or json:label; turns on zero-shot classification
    classes: str | None = None  # file of class names, one a line; numbers in the label count its lines from 0
    templates: str | None = None  # file of prompt templates, one a line, e.g. a photo of a {}.; None: our own
    probe_train: str | None = None  # labelled corpus on whose embeddings a linear probe is fitted
    fields: tuple[str, ...] = ()
    """field map, e.g. image=jpg text=json:captions; empty: the usual names, of clips the field map of the training"""
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    batch_size: int = 256  # rows encoded at once
    bootstrap: int = 1000  # resamplings behind each 95 % interval
    seed: int = 0  # of the intervals and of the probe's split
    name: str | None = None  # of the result in RUN/evaluations; None: from corpus and step
    save: bool = True  # store the result as JSON beside the run
    to: str | None = None  # store it in this folder instead
    workers: int | None = None  # encoders on the cluster; None: this process, unless a cluster and many rows are there
    gpus_per_worker: float | None = None  # None: 1 where the cluster has that many GPUs, else 0
    cpus_per_worker: float | None = None  # None: what leaves room for reading
    address: str | None = None  # of a running cluster; None: RAY_ADDRESS
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

    def __post_init__(self) -> None:
        for name in ("batch_size", "bootstrap"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers={self.workers} must not be negative; 0 is this process")
        for name in ("classes", "templates", "probe_train"):
            if getattr(self, name) and not self.label:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} needs --label: where a row's class is, e.g. --label cls")
        if not self.retrieval and not self.label:
            raise ConfigError("nothing to evaluate: leave retrieval on, or say with --label where a row's class is")
        if self.name is not None:
            check_name(self.name)

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
