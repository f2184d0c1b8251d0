"""Configuration of jobs.diagnose: a classifier, labelled rows, and how much of them is measured."""

from dataclasses import dataclass, field

import tyro

from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

MAX_BATCH_SIZE = 1024  # rows that are read and shuffled together


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Which classifier is diagnosed, and on which rows."""

    checkpoint: tyro.conf.Positional[str]
    """a run of jobs.classify, whose newest valid checkpoint is taken, or one of its
    checkpoints"""
    corpus: tyro.conf.Positional[str]
    """labelled rows on which losses and gradients are measured, usually those of the training"""
    held_out: str | None = None
    """labelled rows on which heads and linear probes are evaluated; None: every fourth
    mini-batch of the corpus"""
    fields: tuple[str, ...] = ()
    """field map of both corpora, e.g. video=mp4 audio=mp4 label=cls; empty: the field map of
    the training"""
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside the corpus
    rows: int = 2048  # largest number of rows of each corpus; a larger corpus is sampled at random
    batch_size: int = 64  # number of rows of a mini-batch; the variance of gradients is inversely proportional to it
    batches: int = 32  # largest number of mini-batches on which gradients are measured
    flat_batches: int = 4  # number of mini-batches on which the flatness of the loss is measured
    directions: int = 5  # number of random directions in which the loss is measured around the minimum
    radius: float = 1.0  # how far along a direction the loss is measured, in lengths of each filter of the weights
    points: int = 11  # number of points on each direction, an odd number, so that the minimum is one of them
    iterations: int = 30  # largest number of Hessian-vector products for the top eigenvalue
    seed: int = 0  # seed of the sample of rows, the directions and the probes
    save: bool = True  # store the result as JSON in RUN/diagnoses, where jobs.report finds it
    to: str | None = None  # folder in which the result is stored instead
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        if self.batch_size > MAX_BATCH_SIZE:
            raise ConfigError(f"batch_size={self.batch_size} must be at most {MAX_BATCH_SIZE}")
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
