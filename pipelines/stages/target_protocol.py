"""What a dual encoder reads of its target under each protocol: pictures, or pictures and texts that nobody pairs."""

from collections.abc import Sequence

from pipelines.config.adapt import Config
from pipelines.stream import corpora
from pipelines.stream.corpora import Notify
from pipelines.stream.domain_corpora import Opened, Part
from xmodal.data.decode.fields import TEXT_MEMBERS, TEXT_PATHS, Field
from xmodal.data.index.corpus import Corpus
from xmodal.errors import ConfigError
from xmodal.training.domain_methods import TARGET, TARGET_TEXT


def parts_of(config: Config, opened: Opened, fields: Sequence[Field]) -> list[Part]:
    """Pictures, with second views where consistency is asked for, then texts where the protocol has any."""
    again = bool(config.target.consistency)
    found = [Part(role=TARGET, corpora=opened.target, fields=(fields[0],), again=again)]
    if opened.texts:
        found.append(Part(role=TARGET_TEXT, corpora=opened.texts, fields=(fields[1],)))
    return found


def tell(config: Config, opened: Opened, notify: Notify) -> None:
    """Say what is made of a target of pairs: captions that are not read, or a pairing that is not used.

    It is no mistake that can be told from what is meant.
    """
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


def _has_captions(corpus: Corpus) -> bool:
    return bool({*TEXT_MEMBERS, *TEXT_PATHS} & corpora.available(corpus))
