"""Source and target corpora in, a word about what would make an adaptation something else than it says."""

from collections.abc import Sequence

from pipelines import corpora
from pipelines.config.adapt_domain import Config
from pipelines.corpora import Notify
from xmodal.data.corpus import Corpus
from xmodal.data.fields import TEXT_MEMBERS, TEXT_PATHS
from xmodal.errors import ConfigError

CAPTIONS = 4000  # of each domain, evenly spread, that are compared


def check_domains(
    config: Config, source: Sequence[Corpus], target: Sequence[Corpus], texts: Sequence[Corpus], notify: Notify
) -> None:
    """ConfigError where the target is the source.

    A target of pairs is no mistake that can be told from what is meant. `notify` hears what is made of it: captions
    that are not read, or a pairing that is not used.
    """
    _refuse_the_same(config, source, target)
    if config.target.protocol == "images":
        captioned = [corpus.uri for corpus in target if _has_captions(corpus)]
        if captioned and config.data.fields == () and "text" not in config.target.fields:
            notify(f"{captioned[0]} has captions: the protocol 'images' does not read them")
        return
    images = {corpus.fingerprint for corpus in target}
    paired = [corpus.uri for corpus in texts if corpus.fingerprint in images]
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


def _refuse_the_same(config: Config, source: Sequence[Corpus], target: Sequence[Corpus]) -> None:
    known = {corpus.fingerprint: corpus.uri for corpus in source}
    for corpus in target:
        if corpus.fingerprint in known:
            raise ConfigError(
                f"the target {corpus.uri} is the source {known[corpus.fingerprint]} (same fingerprint): "
                "name the other domain with --target"
            )


def _has_captions(corpus: Corpus) -> bool:
    return bool({*TEXT_MEMBERS, *TEXT_PATHS} & corpora.available(corpus))
