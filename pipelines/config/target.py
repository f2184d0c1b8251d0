"""The domain to adapt to: where its rows come from, and what is known of them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipelines.config.data import check_fields
from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target: rows without pairs."""

    corpus: Annotated[tuple[str, ...], tyro.conf.arg(name="target")]
    """URIs of the target: folders of shards or single ones; of clips and pairs alike only what the protocol allows"""
    protocol: Annotated[Literal["images", "unpaired"], tyro.conf.arg(name="target.protocol")] = "images"
    """images: pictures (of clips: frames) alone; unpaired: texts (of clips: sounds) too, in an order of their own"""
    texts: Annotated[tuple[str, ...], tyro.conf.arg(name="target.texts")] = ()
    """of protocol unpaired: URIs that the texts come from; empty: the target's, read a second time in another order"""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(name="target.fields")] = ()
    """field map of the target, e.g. image=png; empty: what --fields says of the same fields, else the usual names"""
    batch_size: Annotated[int | None, tyro.conf.arg(name="target.batch-size")] = None
    """rows of the target in every step, over all workers, and as many texts; None: as many as there are source pairs"""

    consistency: Annotated[float, tyro.conf.arg(name="target.consistency")] = 0.0
    """weight of finding a target picture's second augmented view among those of others (SimCLR); 0: one view is read"""
    pseudo_pairs: Annotated[float, tyro.conf.arg(name="target.pseudo-pairs")] = 0.0
    """weight of a contrastive loss on guessed pairs: target pictures and texts (the source's, where the protocol has no
    others) that are each other's nearest in the batch"""
    threshold: Annotated[float, tyro.conf.arg(name="target.threshold")] = 0.5
    """least cosine of a guessed pair"""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ConfigError("no target: name at least one corpus of the domain to adapt to, e.g. --target sketches/")
        if self.texts and self.protocol == "images":
            raise ConfigError(
                "--target.texts with the protocol 'images', which reads pictures alone: add "
                "--target.protocol unpaired, or leave the texts out"
            )
        _check_rows(self.batch_size)
        for name in ("consistency", "pseudo_pairs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"target.{name}={getattr(self, name)} must be at least 0 and finite")
        if not -1 <= self.threshold <= 1:
            raise ConfigError(f"target.threshold={self.threshold} must lie in [-1, 1]: it is a cosine")
        check_fields(self.fields, ("image", "text", "video", "audio"))

    @property
    def text_corpus(self) -> tuple[str, ...]:
        """Where texts come from; empty in the protocol without."""
        return () if self.protocol == "images" else self.texts or self.corpus


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """The target of a classifier: clips without labels."""

    corpus: Annotated[tuple[str, ...], tyro.conf.arg(name="target")] = ()
    """URIs of clips of another domain, whose labels, if any, are not read; none: train on --corpus alone"""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(name="target.fields")] = ()
    """field map of the target, e.g. video=mp4 audio=wav; empty: what --fields says of sight and sound"""
    batch_size: Annotated[int | None, tyro.conf.arg(name="target.batch-size")] = None
    """rows of the target in every step, over all workers; None: as many as there are of the source"""

    def __post_init__(self) -> None:
        if not self.corpus and (self.fields or self.batch_size is not None):
            flag = "fields" if self.fields else "batch-size"
            raise ConfigError(f"--target.{flag} without a target: name its clips with --target CORPUS")
        _check_rows(self.batch_size)
        check_fields(self.fields, ("video", "audio"))

    @property
    def text_corpus(self) -> tuple[str, ...]:
        """Clips have no texts."""
        return ()


def _check_rows(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 2:
        raise ConfigError(f"target.batch_size={batch_size} must be at least 2: one row has no distribution")
