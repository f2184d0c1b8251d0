"""A run's configuration in; the corpora of both domains opened, looked at, and as streams of one global step, out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines import corpora, stage
from pipelines.config.adapt_domain import Config
from pipelines.config.data import Data
from pipelines.corpora import Notify
from pipelines.source import Stream
from pipelines.stage import News
from xmodal.data.corpus import Corpus
from xmodal.data.fields import TEXT_MEMBERS, TEXT_PATHS, Field, FieldMap
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.intakes import fields_of
from xmodal.errors import ConfigError, CorpusError
from xmodal.training.adaptation import AGAIN, SOURCE, TARGET, TARGET_TEXT


@dataclass(frozen=True, eq=False)
class Opened:
    """The corpora of a run, with their indexes."""

    source: list[Corpus]
    target: list[Corpus]
    texts: list[Corpus]


def open_corpora(config: Config, on_news: News) -> Opened:
    """Every corpus once."""
    source = stage.open_all(config.data, on_news)
    uris = target_uris(config)
    found = dict(zip(uris, stage.open_all(_data_of_target(config, uris), on_news), strict=True))
    target = [found[uri] for uri in config.target.corpus]
    return Opened(source, target, [found[uri] for uri in config.target.text_corpus])


def streams_of(config: Config, opened: Opened, model: DualEncoder, tokenizer: str | None) -> list[Stream]:
    """The source's, then those of the target's pictures, then those of its texts: all keyed by the same global step."""
    maps = [corpora.field_map(corpus, config.data.fields, model.modalities) for corpus in opened.source]
    fields = fields_of(model, tokenizer, config.augment)
    found = stage.streams(config, opened.source, maps, fields)
    for role, part, field in ((TARGET, opened.target, fields[0]), (TARGET_TEXT, opened.texts, fields[1])):
        if part:
            found += _target_streams(config, role, part, field, after=len(found))
    return found


def _target_streams(config: Config, role: str, part: list[Corpus], field: Field, *, after: int) -> list[Stream]:
    specs = specs_of_target(config, field)
    maps: list[FieldMap] = []
    fields: tuple[Field, ...] = (field,)
    for corpus in part:
        try:
            maps.append(corpora.field_map(corpus, specs, (field.name,)))
        except (ConfigError, CorpusError) as error:
            raise CorpusError(f"the target {corpus.uri}: {error} (--target.fields is for the target)") from error
    if role == TARGET and config.target.consistency:  # the row's generator goes on: another view of the same picture
        fields = (field, replace(field, name=AGAIN))  # type: ignore[type-var]
        maps = [FieldMap({**one.sources, AGAIN: one.sources[field.name]}) for one in maps]
    return corpora.streams(
        _data_of_target(config, [corpus.uri for corpus in part]), part, maps, fields,
        batch_size=target_rows(config), workers=config.resources.sizes, seed=config.seed, role=role, after=after,
    )  # fmt: skip


def specs_of_target(config: Config, field: Field) -> list[str]:
    """What the target's field map says of one field; what the source's does, where the target has none of its own."""
    asked = config.target.fields or config.data.fields
    return [spec for spec in asked if spec.partition("=")[0].strip() == field.name]


def target_uris(config: Config) -> list[str]:
    """All that is read of the target, each once."""
    return list(dict.fromkeys((*config.target.corpus, *config.target.text_corpus)))


def target_rows(config: Config) -> int:
    """Pictures of the target in every step, over all workers; and as many texts, where the protocol has any."""
    return config.target.batch_size or config.optim.batch_size


def by_uri(config: Config, opened: Opened) -> dict[str, Corpus]:
    """The corpora of the target, for the record of the run."""
    uris = (*config.target.corpus, *config.target.text_corpus)
    return dict(zip(uris, (*opened.target, *opened.texts), strict=True))


def _data_of_target(config: Config, uris: Sequence[str]) -> Data:
    return replace(config.data, corpus=tuple(uris), weights=())


def pairs_of(streams: Sequence[Stream]) -> list[Stream]:
    """The streams of the source."""
    return [stream for stream in streams if stream.role == SOURCE]


def check_domains(config: Config, opened: Opened, notify: Notify) -> None:
    """ConfigError where the target is the source.

    A target of pairs is no mistake that can be told from what is meant. `notify` hears what is made of it: captions
    that are not read, or a pairing that is not used.
    """
    _refuse_the_same(opened)
    if config.target.protocol == "images":
        captioned = [corpus.uri for corpus in opened.target if _has_captions(corpus)]
        if captioned:
            notify(f"{captioned[0]} has captions: the protocol 'images' does not read them")
        return
    images = {corpus.fingerprint for corpus in opened.target}
    paired = [corpus.uri for corpus in opened.texts if corpus.fingerprint in images]
    if paired:
        notify(
            f"{paired[0]} gives pictures and texts: they are read in two orders, and none is told which belongs to it"
        )


def refuse_pairs_of_target(held_out: Corpus, target: Sequence[Corpus]) -> None:
    """ConfigError where a run would watch pairs of its target while it trains: then they would choose what is kept."""
    if held_out.fingerprint in {corpus.fingerprint for corpus in target}:
        raise ConfigError(
            f"--validation.corpus {held_out.uri} holds pairs of the target, which training may not see: validate on "
            "pairs of the source, and measure the target afterwards with jobs.compare or jobs.evaluate"
        )


def _refuse_the_same(opened: Opened) -> None:
    known = {corpus.fingerprint: corpus.uri for corpus in opened.source}
    for corpus in opened.target:
        if corpus.fingerprint in known:
            raise ConfigError(
                f"the target {corpus.uri} is the source {known[corpus.fingerprint]} (same fingerprint): "
                "name the other domain with --target"
            )


def _has_captions(corpus: Corpus) -> bool:
    return bool({*TEXT_MEMBERS, *TEXT_PATHS} & corpora.available(corpus))
