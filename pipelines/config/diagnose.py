"""What jobs.diagnose is asked: a classifier, labelled rows, and how closely to look."""

from dataclasses import dataclass

import tyro

from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

MOST_ROWS = 1024  # that are read and shuffled together


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which classifier to look into, on which rows."""

    checkpoint: tyro.conf.Positional[str]  # a run of jobs.adapt, or one of its checkpoints
    corpus: tyro.conf.Positional[str]  # rows whose losses are looked at, as a rule those of the training
    held_out: str | None = None  # rows that judge heads and probes; None: each fourth mini-batch of the corpus
    fields: tuple[str, ...] = ()  # field map of both, e.g. video=mp4 audio=mp4 label=cls; empty: that of the training
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    rows: int = 2048  # most rows of each corpus; of a larger one a random part
    batch_size: int = 64  # rows of a mini-batch: the spread of gradients falls as one over it
    batches: int = 32  # most mini-batches that gradients are measured on
    flat_batches: int = 4  # mini-batches whose loss is looked at around the minimum
    directions: int = 5  # random directions away from it
    radius: float = 1.0  # how far, in lengths of each filter
    points: int = 11  # places on each direction, the minimum among them
    iterations: int = 30  # most Hessian-vector products for the top eigenvalue
    seed: int = 0  # of the rows, the directions and the probes
    save: bool = True  # store the result as JSON in RUN/diagnoses, where jobs.report finds it
    to: str | None = None  # store it in this folder instead
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

    def __post_init__(self) -> None:
        if self.batch_size > MOST_ROWS:
            raise ConfigError(f"batch_size={self.batch_size} must be at most {MOST_ROWS}")
        for name in ("batch_size", "flat_batches", "directions", "iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batches < 2:
            raise ConfigError(f"batches={self.batches} must be at least 2: one gradient has no spread")
        if self.rows < 2 * self.batch_size:
            raise ConfigError(f"rows={self.rows} must be two mini-batches at least, {2 * self.batch_size}")
        if self.points < 3 or self.points % 2 == 0:
            raise ConfigError(f"points={self.points} must be odd and at least 3, so that the minimum is one of them")
        if not self.radius > 0:
            raise ConfigError(f"radius={self.radius} must be positive")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
