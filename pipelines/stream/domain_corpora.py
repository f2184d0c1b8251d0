"""Open the corpora of a source and a target domain, and turn them into streams of one global step.

What is read of the target (images, texts in an order of their own, clips without labels) is up to the stage, which
says so by the role, the corpora and the fields of each stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.config.adapt import AdaptConfig
from pipelines.config.classify import ClassifyConfig
from pipelines.config.data import DataConfig
from pipelines.runtime.events import OnEvent
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal.data.decode.fields import Field, FieldMap
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import Corpus
from xmodal.errors import ConfigError, CorpusError
from xmodal.training.domain_methods import SECOND_VIEW, SOURCE

DomainConfigs = ClassifyConfig | AdaptConfig


@dataclass(frozen=True, eq=False)
class DomainCorpora:
    """The corpora of a run with their indexes, by what they are for."""

    source: list[Corpus]
    target: list[Corpus]
    texts: list[Corpus]  # of the target, where its texts are read without their images


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetRole:
    """What one role in the batch reads of the target."""

    role: str
    corpora: list[Corpus]
    fields: tuple[Field, ...]
    second_view: bool = False  # read another augmented view of the first field, too


def open_domains(config: DomainConfigs, on_event: OnEvent) -> DomainCorpora:
    """Open every corpus once; ConfigError where the target is the source."""
    source = corpora.open_corpora(config.data, on_event)
    uris = target_uris(config)
    opened = corpora.open_corpora(_target_data(config, uris), on_event) if uris else []
    targets = dict(zip(uris, opened, strict=True))
    target = [targets[uri] for uri in config.target.corpus]
    _check_distinct(source, target)
    return DomainCorpora(source, target, [targets[uri] for uri in config.target.text_corpus])


def domain_streams(
    config: DomainConfigs,
    opened: DomainCorpora,
    maps: Sequence[FieldMap],
    fields: tuple[Field, ...],
    roles: Sequence[TargetRole],
) -> list[Stream]:
    """Return the streams of the source, by its field maps, then those of each role of the target."""
    streams = corpora.build_streams(
        config.data, opened.source, maps, fields,
        batch_size=config.optim.batch_size, workers=config.resources.sizes, seed=config.seed,
    )  # fmt: skip
    for role in roles:
        streams += _target_streams(config, role, first_number=len(streams))
    return streams


def _target_streams(config: DomainConfigs, role: TargetRole, *, first_number: int) -> list[Stream]:
    names, fields = tuple(field.name for field in role.fields), role.fields
    maps = [_target_map(config, corpus, names) for corpus in role.corpora]
    if role.second_view:  # drawn by the row's generator after the first one: another view of the same image
        fields = (*fields, replace(fields[0], name=SECOND_VIEW))  # type: ignore[type-var]
        maps = [FieldMap({**mapping.sources, SECOND_VIEW: mapping.sources[names[0]]}) for mapping in maps]
    data = _target_data(config, [corpus.uri for corpus in role.corpora])
    return corpora.build_streams(
        data, role.corpora, maps, fields,
        batch_size=target_rows(config), workers=config.resources.sizes, seed=config.seed, role=role.role,
        first_number=first_number,
    )  # fmt: skip


def _target_map(config: DomainConfigs, corpus: Corpus, names: tuple[str, ...]) -> FieldMap:
    try:
        return field_maps.field_map(corpus, target_field_specs(config, names), names)
    except (ConfigError, CorpusError) as error:
        raise CorpusError(f"the target {corpus.uri}: {error} (--target.fields is for the target)") from error


def target_field_specs(config: DomainConfigs, names: Sequence[str]) -> list[str]:
    """Return what the field map says of these fields: the target's own map, or the source's where it has none."""
    specs = config.target.fields or config.data.fields
    return [spec for spec in specs if spec.partition("=")[0].strip() in names]


def target_uris(config: DomainConfigs) -> list[str]:
    """Return all that is read of the target, each URI once."""
    return list(dict.fromkeys((*config.target.corpus, *config.target.text_corpus)))


def target_rows(config: DomainConfigs) -> int:
    """Return the rows of the target in every step, over all workers; its texts are as many."""
    return config.target.batch_size or config.optim.batch_size


def check_target_shares(config: DomainConfigs) -> None:
    """Raise ConfigError where no number of workers divides the target's rows."""
    if config.target.corpus:
        corpora.global_shares([1], (), target_rows(config), config.resources.sizes)


def target_by_uri(config: DomainConfigs, opened: DomainCorpora) -> dict[str, Corpus]:
    """Return the corpora of the target by their URIs, for the record of the run."""
    uris = (*config.target.corpus, *config.target.text_corpus)
    return dict(zip(uris, (*opened.target, *opened.texts), strict=True))


def source_streams(streams: Sequence[Stream]) -> list[Stream]:
    """Return those streams that are of the source."""
    return [stream for stream in streams if stream.role == SOURCE]


def _target_data(config: DomainConfigs, uris: Sequence[str]) -> DataConfig:
    return replace(config.data, corpus=tuple(uris), weights=())


def _check_distinct(source: Sequence[Corpus], target: Sequence[Corpus]) -> None:
    by_fingerprint = {corpus.fingerprint: corpus.uri for corpus in source}
    for corpus in target:
        if corpus.fingerprint in by_fingerprint:
            raise ConfigError(
                f"the target {corpus.uri} is the source {by_fingerprint[corpus.fingerprint]} (same fingerprint): "
                "name the other domain with --target"
            )
