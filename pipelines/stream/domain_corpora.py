"""A run's configuration in; the corpora of both domains opened, looked at, and as streams of one global step, out.

What is read of a target (pictures, texts in an order of their own, clips without labels) is up to the stage; it says
so by the role, the corpora and the fields of each stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.config import adapt, classify
from pipelines.config.data import Data
from pipelines.stages import training_job
from pipelines.stages.training_job import News
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.data.decode.fields import Field, FieldMap
from xmodal.data.index.corpus import Corpus
from xmodal.errors import ConfigError, CorpusError
from xmodal.training.domain_methods import AGAIN, SOURCE

Config = classify.Config | adapt.Config


@dataclass(frozen=True, eq=False)
class Opened:
    """The corpora of a run, with their indexes."""

    source: list[Corpus]
    target: list[Corpus]
    texts: list[Corpus]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What one role reads of the target: these fields of these corpora; `again`: another view of the first one, too."""

    role: str
    corpora: list[Corpus]
    fields: tuple[Field, ...]
    again: bool = False


def open_corpora(config: Config, on_news: News) -> Opened:
    """Every corpus once; ConfigError where the target is the source."""
    source = training_job.open_all(config.data, on_news)
    uris = target_uris(config)
    found = dict(zip(uris, training_job.open_all(_data_of_target(config, uris), on_news), strict=True)) if uris else {}
    target = [found[uri] for uri in config.target.corpus]
    opened = Opened(source, target, [found[uri] for uri in config.target.text_corpus])
    _refuse_the_same(opened)
    return opened


def streams_of(
    config: Config, opened: Opened, maps: Sequence[FieldMap], fields: tuple[Field, ...], parts: Sequence[Part]
) -> list[Stream]:
    """The source's, by its field maps, then those of each part of the target: all keyed by the same global step."""
    found = training_job.streams(config, opened.source, maps, fields)
    for part in parts:
        found += _of_target(config, part, after=len(found))
    return found


def _of_target(config: Config, part: Part, *, after: int) -> list[Stream]:
    names, fields = tuple(field.name for field in part.fields), part.fields
    specs, maps = specs_of_target(config, names), []
    for corpus in part.corpora:
        try:
            maps.append(corpora.field_map(corpus, specs, names))
        except (ConfigError, CorpusError) as error:
            raise CorpusError(f"the target {corpus.uri}: {error} (--target.fields is for the target)") from error
    if part.again:  # the row's generator goes on: another view of the same picture
        fields = (*fields, replace(fields[0], name=AGAIN))  # type: ignore[type-var]
        maps = [FieldMap({**one.sources, AGAIN: one.sources[names[0]]}) for one in maps]
    return corpora.streams(
        _data_of_target(config, [corpus.uri for corpus in part.corpora]), part.corpora, maps, fields,
        batch_size=target_rows(config), workers=config.resources.sizes, seed=config.seed, role=part.role, after=after,
    )  # fmt: skip


def specs_of_target(config: Config, names: Sequence[str]) -> list[str]:
    """What the target's field map says of these fields; where it has none of its own, what the source's does."""
    asked = config.target.fields or config.data.fields
    return [spec for spec in asked if spec.partition("=")[0].strip() in names]


def target_uris(config: Config) -> list[str]:
    """All that is read of the target, each once."""
    return list(dict.fromkeys((*config.target.corpus, *config.target.text_corpus)))


def anchored(uris: Sequence[str]) -> tuple[str, ...]:
    """The same corpora by absolute paths."""
    return tuple(map(storage.absolute, uris))


def target_rows(config: Config) -> int:
    """Rows of the target in every step, over all workers; and as many texts, where the protocol has any."""
    return config.target.batch_size or config.optim.batch_size


def check_shares(config: Config) -> None:
    """ConfigError where no number of workers divides the target's rows."""
    if config.target.corpus:
        corpora.global_shares([1], (), target_rows(config), config.resources.sizes)


def by_uri(config: Config, opened: Opened) -> dict[str, Corpus]:
    """The corpora of the target, for the record of the run."""
    uris = (*config.target.corpus, *config.target.text_corpus)
    return dict(zip(uris, (*opened.target, *opened.texts), strict=True))


def _data_of_target(config: Config, uris: Sequence[str]) -> Data:
    return replace(config.data, corpus=tuple(uris), weights=())


def of_source(streams: Sequence[Stream]) -> list[Stream]:
    """The streams of the source."""
    return [stream for stream in streams if stream.role == SOURCE]


def _refuse_the_same(opened: Opened) -> None:
    known = {corpus.fingerprint: corpus.uri for corpus in opened.source}
    for corpus in opened.target:
        if corpus.fingerprint in known:
            raise ConfigError(
                f"the target {corpus.uri} is the source {known[corpus.fingerprint]} (same fingerprint): "
                "name the other domain with --target"
            )
