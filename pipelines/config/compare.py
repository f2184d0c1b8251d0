"""What jobs.compare is asked: runs by the part they play, and held-out pairs of both domains."""

from dataclasses import dataclass

from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

ARMS = ("before", "control", "adapted", "oracle")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which runs are compared, and on what. Several runs of one part are its seeds: their mean and spread is shown."""

    adapted: tuple[str, ...]  # runs of jobs.adapt clip
    source: str  # held-out pairs of the source
    target: str  # pairs of the target: sealed, since no training and no selection has seen them
    before: tuple[str, ...] = ()  # what the adaptation started from; empty: as the adapted runs recorded it
    control: tuple[str, ...] = ()  # the same steps with --domain.loss none: what more of the source alone gives
    oracle: tuple[str, ...] = ()  # trained on pairs of the target: what the pairs would have been worth
    fields: tuple[str, ...] = ()  # field map of both corpora; empty: the usual names
    target_fields: tuple[str, ...] = ()  # of the target, where it differs
    label: str | None = None  # where a row's class is, e.g. cls or json:label; adds zero-shot classification
    classes: str | None = None  # file of class names, one a line; numbers in the label count its lines from 0
    templates: str | None = None  # file of prompt templates, one a line; None: our own
    batch_size: int = 256  # rows encoded at once
    to: str | None = None  # where the result is kept as JSON; None: comparisons/TARGET.json of the first adapted run
    index: str | None = None  # URI of a cache for indexes; None: beside the corpora
    endpoint: str | None = None  # of an S3-compatible store; None: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; None: the standard environment
    anonymous: bool = False  # send unsigned requests: public buckets

    def __post_init__(self) -> None:
        if not self.adapted:
            raise ConfigError("no run to look at: name at least one with --adapted RUN")
        named = [uri.rstrip("/") for arm in ARMS for uri in getattr(self, arm)]
        if twice := [uri for uri in named if named.count(uri) > 1]:
            raise ConfigError(f"{twice[0]} is named twice: a run plays one part, once")
        if self.source.rstrip("/") == self.target.rstrip("/"):
            raise ConfigError(f"{self.source} is named as the source and as the target: name one corpus of each domain")
        for name in ("classes", "templates"):
            if getattr(self, name) and not self.label:
                raise ConfigError(f"--{name} needs --label: where a row's class is, e.g. --label cls")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )
