"""Configuration of jobs.doctor: what a run is going to read, write and use."""

from dataclasses import dataclass, field

from pipelines.config.resources import ResourceConfig
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What is going to run where."""

    corpus: tuple[str, ...] = ()  # URIs of corpora that will be read
    runs: str = "runs"  # folder or s3:// URI of runs that will be written
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside each corpus
    storage: StorageOptions = field(default_factory=StorageOptions)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
