"""Configuration of jobs.report: runs, and the pairs they are shown on."""

from dataclasses import dataclass, field

import tyro

from xmodal.errors import ConfigError
from xmodal.report.charts.svg import MAX_SERIES
from xmodal.storage import StorageOptions


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which runs are shown on one page, and on which pairs."""

    runs: tyro.conf.Positional[tuple[str, ...]]  # directories of runs; several are compared
    to: str = "report.html"  # HTML file or s3:// URI for the page
    corpus: str | None = None  # held-out pairs for the gallery; None: those of the newest evaluation
    fields: tuple[str, ...] = ()  # field map of that corpus, e.g. image=jpg text=json:caption; empty: the usual names
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside the corpus
    rows: int = 512  # number of pairs that are searched for the gallery, spread evenly over a larger corpus
    storage: StorageOptions = field(default_factory=StorageOptions)

    def __post_init__(self) -> None:
        places = [uri.rstrip("/") for uri in self.runs]
        if not places:
            raise ConfigError("name at least one run: python -m jobs.report RUN")
        if len(places) > MAX_SERIES:
            raise ConfigError(f"{len(places)} runs: a page compares at most {MAX_SERIES}; leave some out")
        if twice := [uri for uri in places if places.count(uri) > 1]:
            raise ConfigError(f"{twice[0]} is named twice: a page shows each run once")
        if not 2 <= self.rows <= 20_000:
            raise ConfigError(f"rows={self.rows} must lie in 2..20000: all of them are searched in memory")
