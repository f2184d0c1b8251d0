"""Configuration of jobs.evaluate: a checkpoint, corpora, and which metrics are computed."""

from dataclasses import dataclass, field

import tyro

from xmodal.errors import ConfigError
from xmodal.run.directory import check_run_name
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated on what."""

    checkpoint: tyro.conf.Positional[str]  # a run, whose newest valid checkpoint is taken, or one of its checkpoints
    corpus: tyro.conf.Positional[str]  # rows that the model has not seen in training
    retrieval: bool = True
    """measure retrieval: of texts by image and of images by text, or of audio by video and of
    video by audio"""
    label: str | None = None
    """where a row's class is, e.g. cls or json:label; zero-shot classification is measured
    when it is given"""
    classes: str | None = None
    """file with the name of one class a line; a label that is a number counts these lines from
    0"""
    templates: str | None = None  # file with one prompt template a line, e.g. a photo of a {}.; None: a built-in list
    probe_train: str | None = None
    """labelled corpus on whose embeddings a linear probe is trained; None: no linear probe"""
    fields: tuple[str, ...] = ()
    """field map, which says where a row has its fields, e.g. image=jpg|png text=json:caption;
    empty: the usual names, of clips the field map of the training"""
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside the corpus
    batch_size: int = 256  # number of rows that are encoded at once
    bootstrap: int = 1000  # number of bootstrap resamplings behind each 95 % interval
    seed: int = 0  # seed of the bootstrap and of the probe's validation split
    name: str | None = None  # name of the result in RUN/evaluations; None: made from corpus and step
    save: bool = True  # store the result as JSON in RUN/evaluations
    to: str | None = None  # folder in which the result is stored instead
    workers: int | None = None
    """number of encoders on the cluster, 0 for this process; None: this process, unless there
    is a cluster and a large corpus"""
    gpus_per_worker: float | None = None
    """number of GPUs of each encoder; None: 1 where the cluster has that many GPUs, else 0"""
    cpus_per_worker: float | None = None  # number of CPUs of each encoder; None: what leaves enough CPUs for reading
    address: str | None = None  # address of a running Ray cluster, e.g. 10.0.0.5:6379; None: RAY_ADDRESS
    storage: StorageOptions = field(default_factory=StorageOptions)

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
            check_run_name(self.name)
