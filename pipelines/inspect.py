"""The URI of a corpus in; what it holds, and a grid of samples as a picture, out. In this process, no cluster."""

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.corpora import check_fields, field_map
from xmodal import storage
from xmodal.data.corpus import Corpus, open_corpus
from xmodal.data.fields import FieldMap, Source
from xmodal.data.listing import folder_before_pattern
from xmodal.data.survey import Survey, survey
from xmodal.errors import ConfigError, CorpusError
from xmodal.report.sheet import contact_sheet
from xmodal.report.wording import count
from xmodal.storage import StorageOptions

FIELDS = ("image", "text")
TERMINAL = "-"
Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which corpus to look at, and how closely."""

    corpus: str  # a folder of shards, one shard, or a pattern; tar or Parquet
    grid: str | None = None  # a picture of samples: where to write it (PNG, local or s3://), or - for the terminal
    pictures: int = 24  # in the grid
    rows: int = 5000  # rows that are read and decoded; of a larger corpus an even sample
    fields: tuple[str, ...] = ()  # field map, e.g. image=jpg|png text=json:caption; empty: the usual names
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # public buckets

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(f"rows={self.rows} must be at least 1")
        if not 1 <= self.pictures <= 600:
            raise ConfigError(f"pictures={self.pictures} must lie in 1..600")
        check_fields(self.fields, FIELDS)

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found; `unmapped` says why a field was not looked into."""

    corpus: Corpus
    mapping: FieldMap
    survey: Survey
    unmapped: tuple[str, ...]


def run(
    config: Config, *, notify: Notify = lambda message: None, progress: Callable[[int, int], None] | None = None
) -> Inspection:
    """Survey the corpus; the grid is written where it was asked for. `progress` counts shards that are indexed."""
    options = config.storage
    storage.check(folder_before_pattern(config.corpus), writable=False, options=options)
    to_file = config.grid is not None and config.grid != TERMINAL
    if config.grid is not None and to_file:
        storage.check(config.grid, writable=True, options=options)
    corpus = open_corpus(config.corpus, index=config.index, options=options, notify=notify, progress=progress)
    mapping, unmapped = _mapping(corpus, config.fields)
    found = survey(corpus, mapping, most=config.rows, examples=config.pictures)
    if config.grid is not None and to_file:
        heading = f"{config.corpus} · {len(found.examples):,} of {count(corpus.rows, 'row')}"
        storage.write(config.grid, contact_sheet(found.examples, heading), options=options)
    return Inspection(corpus=corpus, mapping=mapping, survey=found, unmapped=unmapped)


def _mapping(corpus: Corpus, specs: tuple[str, ...]) -> tuple[FieldMap, tuple[str, ...]]:
    """The map of the fields that the corpus has; one that nobody named may be absent, and is told."""
    if specs:
        names = tuple(spec.partition("=")[0].strip() for spec in specs)
        return field_map(corpus, specs, names), ()
    sources: dict[str, tuple[Source, ...]] = {}
    absent = []
    for name in FIELDS:
        try:
            sources |= field_map(corpus, (), (name,)).sources
        except CorpusError as error:
            absent.append(str(error))
    return FieldMap(sources), tuple(absent)
