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
    """ConfigError where the target is the source, or where training would be validated on the target's pairs.

    `notify` hears what cannot be told from what is meant: captions that are not read, a pairing that is not used, and
    captions that both domains share, which tie the target's texts to the source's pictures.
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
