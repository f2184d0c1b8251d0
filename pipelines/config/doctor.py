"""What jobs.doctor is asked: the places of a run, and its resources."""

from dataclasses import dataclass, field

from pipelines.config.resources import Resources
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is going to run where."""

    corpus: tuple[str, ...] = ()  # URIs that will be read
    runs: str = "runs"  # URI of the directory of runs, which will be written
    index: str | None = None  # URI of a cache for indexes; None: beside each corpus
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets
    resources: Resources = field(default_factory=Resources)

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
