"""What an adaptation reads of its target under each protocol: images, or images and texts that are not paired."""

from collections.abc import Sequence

from pipelines.config.adapt import AdaptConfig
from pipelines.stream.domain_corpora import DomainCorpora, TargetRole
from xmodal.callbacks import Notify
from xmodal.data.decode.fields import TEXT_MEMBERS, TEXT_PATHS, Field
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import Corpus
from xmodal.errors import ConfigError
from xmodal.training.domain_methods import TARGET, TARGET_TEXT


def target_roles(config: AdaptConfig, opened: DomainCorpora, fields: Sequence[Field]) -> list[TargetRole]:
    """Return what is read: images, with second views for consistency, then texts where the protocol has any."""
    second_view = bool(config.target.consistency)
    roles = [TargetRole(role=TARGET, corpora=opened.target, fields=(fields[0],), second_view=second_view)]
    if opened.texts:
        roles.append(TargetRole(role=TARGET_TEXT, corpora=opened.texts, fields=(fields[1],)))
    return roles


def note_unused_pairs(config: AdaptConfig, opened: DomainCorpora, notify: Notify) -> None:
    """Notify of captions of the target that are not read, or a pairing that is not used.

    Neither is an error: a corpus of pairs may be meant as a target without them.
    """
    if config.target.protocol == "images":
        captioned = [corpus.uri for corpus in opened.target if _has_captions(corpus)]
        if captioned:
            notify(f"{captioned[0]} has captions: the protocol 'images' does not read them")
        return
    images = {corpus.fingerprint for corpus in opened.target}
    paired = [corpus.uri for corpus in opened.texts if corpus.fingerprint in images]
    if paired:
        notify(f"{paired[0]} gives images and texts: they are read in two orders, so that their pairing is not used")


def check_no_target_pairs(held_out: Corpus, target: Sequence[Corpus]) -> None:
    """Raise ConfigError where a run would validate on pairs of its target: they would choose its settings."""
    if held_out.fingerprint in {corpus.fingerprint for corpus in target}:
        raise ConfigError(
            f"--validation.corpus {held_out.uri} holds pairs of the target, which training may not see: validate on "
            "pairs of the source, and measure the target afterwards with jobs.compare or jobs.evaluate"
        )


def _has_captions(corpus: Corpus) -> bool:
    return bool({*TEXT_MEMBERS, *TEXT_PATHS} & field_maps.available_fields(corpus))
