"""Configuration of jobs.compare: runs by the part they play, and held-out pairs of both domains."""

from dataclasses import dataclass, field

from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

ARMS = ("before", "control", "adapted", "oracle")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Which runs are compared, and on what. Several runs of one part are its seeds: mean and spread are shown."""

    adapted: tuple[str, ...]  # runs of jobs.adapt that are compared with the others
    source: str  # held-out pairs of the source domain
    target: str  # pairs of the target domain, which no training and no selection has seen
    before: tuple[str, ...] = ()  # models that the adaptation started from; empty: those that the adapted runs recorded
    control: tuple[str, ...] = ()
    """runs of as many further steps with --domain.loss none, which show what more of the
    source alone brings"""
    oracle: tuple[str, ...] = ()
    """runs that were trained on pairs of the target, which show what such pairs would be worth"""
    fields: tuple[str, ...] = ()  # field map of both corpora, e.g. image=jpg text=json:caption; empty: the usual names
    target_fields: tuple[str, ...] = ()  # field map of the target, where it differs from --fields
    label: str | None = None
    """where a row's class is, e.g. cls or json:label; zero-shot classification is measured
    when it is given"""
    classes: str | None = None
    """file with the name of one class a line; a label that is a number counts these lines from
    0"""
    templates: str | None = None  # file with one prompt template a line, e.g. a photo of a {}.; None: a built-in list
    batch_size: int = 256  # number of rows that are encoded at once
    to: str | None = None  # JSON file for the result; None: comparisons/TARGET.json in the first adapted run
    centre: bool = False
    """compare also with the control on centred embeddings (each modality minus its mean over the corpus, which needs no
    training); without --control, with the model before the adaptation"""
    index: str | None = None  # URI of a folder in which indexes of corpora are cached; None: beside the corpora
    storage: StorageOptions = field(default_factory=StorageOptions)

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
