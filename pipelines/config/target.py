"""Configuration of the target domain: where its rows come from, and what training may read of them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipelines.config.data import check_fields
from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """The target domain of a dual encoder: rows without pairs."""

    corpus: Annotated[tuple[str, ...], tyro.conf.arg(name="target")]
    """URIs of the target domain: folders of shards or single shards; only what
    --target.protocol allows is read"""
    protocol: Annotated[Literal["images", "unpaired"], tyro.conf.arg(name="target.protocol")] = "images"
    """which target fields training may read: images (of clips: frames) alone, or unpaired:
    texts (of clips: audio) as well, in an order of their own"""
    texts: Annotated[tuple[str, ...], tyro.conf.arg(name="target.texts")] = ()
    """with protocol unpaired: URIs that the texts come from; empty: the target, read a second
    time in another order"""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(name="target.fields")] = ()
    """field map of the target, e.g. image=png; empty: what --fields says of the same fields,
    else the usual names"""
    batch_size: Annotated[int | None, tyro.conf.arg(name="target.batch-size")] = None
    """number of rows of the target in every step, over all workers, and as many texts; None:
    as many as there are source pairs"""

    consistency: Annotated[float, tyro.conf.arg(name="target.consistency")] = 0.0
    """weight of a loss that finds the second augmented view of each target image among those
    of others (SimCLR); 0: no such loss, and one view is read"""
    pseudo_pairs: Annotated[float, tyro.conf.arg(name="target.pseudo-pairs")] = 0.0
    """weight of a contrastive loss on guessed pairs: target images and texts (the source's,
    where the protocol has no others) that are each other's nearest in the batch; 0: no such
    loss"""
    threshold: Annotated[float, tyro.conf.arg(name="target.threshold")] = 0.5
    """least cosine of a guessed pair, from -1 to 1"""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ConfigError("no target: name at least one corpus of the domain to adapt to, e.g. --target sketches/")
        if self.texts and self.protocol == "images":
            raise ConfigError(
                "--target.texts with the protocol 'images', which reads images alone: add "
                "--target.protocol unpaired, or leave the texts out"
            )
        _check_batch_size(self.batch_size)
        for name in ("consistency", "pseudo_pairs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"target.{name}={getattr(self, name)} must be at least 0 and finite")
        if not -1 <= self.threshold <= 1:
            raise ConfigError(f"target.threshold={self.threshold} must lie in [-1, 1]: it is a cosine")
        check_fields(self.fields, ("image", "text", "video", "audio"))

    @property
    def text_corpus(self) -> tuple[str, ...]:
        """URIs that texts come from; empty where the protocol reads none."""
        return () if self.protocol == "images" else self.texts or self.corpus


@dataclass(frozen=True, kw_only=True)
class UnlabelledTargetConfig:
    """The target domain of a classifier: clips without labels."""

    corpus: Annotated[tuple[str, ...], tyro.conf.arg(name="target")] = ()
    """URIs of clips of the target domain, whose labels are not read; none: train on --corpus
    alone"""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(name="target.fields")] = ()
    """field map of the target, e.g. video=mp4 audio=wav; empty: what --fields says of video
    and audio"""
    batch_size: Annotated[int | None, tyro.conf.arg(name="target.batch-size")] = None
    """number of rows of the target in every step, over all workers; None: as many as there are
    source rows"""

    def __post_init__(self) -> None:
        if not self.corpus and (self.fields or self.batch_size is not None):
            flag = "fields" if self.fields else "batch-size"
            raise ConfigError(f"--target.{flag} without a target: name its clips with --target CORPUS")
        _check_batch_size(self.batch_size)

    @property
    def text_corpus(self) -> tuple[str, ...]:
        """URIs that texts come from: none, since clips have none."""
        return ()


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 2:
        raise ConfigError(f"target.batch_size={batch_size} must be at least 2: one row has no distribution")
