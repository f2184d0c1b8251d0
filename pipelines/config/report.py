"""What jobs.report is asked: runs, and the pairs to show them on."""

from dataclasses import dataclass

import tyro

from xmodal.errors import ConfigError
from xmodal.report.charts.svg import MOST_SERIES
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which runs to show on one page, and on which pairs."""

    runs: tyro.conf.Positional[tuple[str, ...]]  # directories of runs; several are compared
    to: str = "report.html"  # where the page is written: a local path or s3://
    corpus: str | None = None  # held-out pairs for the gallery; None: those of the newest evaluation
    fields: tuple[str, ...] = ()  # field map of that corpus; empty: the usual names
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    rows: int = 512  # pairs that are searched; of a larger corpus an even sample
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

    def __post_init__(self) -> None:
        places = [uri.rstrip("/") for uri in self.runs]
        if not places:
            raise ConfigError("name at least one run: python -m jobs.report RUN")
        if len(places) > MOST_SERIES:
            raise ConfigError(f"{len(places)} runs: a page compares at most {MOST_SERIES}; leave some out")
        if twice := [uri for uri in places if places.count(uri) > 1]:
            raise ConfigError(f"{twice[0]} is named twice: a page shows each run once")
        if not 2 <= self.rows <= 20_000:
            raise ConfigError(f"rows={self.rows} must lie in 2..20000: all of them are searched in memory")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
