"""Configuration of the retrieval that is measured on held-out rows during training."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.config.data import check_fields
from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Retrieval on held-out rows during training."""

    corpus: Annotated[str | None, tyro.conf.arg(name="validation.corpus")] = None
    """held-out pairs on which retrieval is measured during training; None: no validation"""
    every: Annotated[int, tyro.conf.arg(name="validation.every")] = 500
    """number of steps between two measurements, during which training waits; one more at the
    end"""
    rows: Annotated[int, tyro.conf.arg(name="validation.rows")] = 1000
    """number of rows that are measured, spread evenly over that corpus, with all their
    captions; every worker keeps its share in memory"""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(name="validation.fields")] = ()
    """field map of that corpus; empty: the one of the training corpora"""

    def __post_init__(self) -> None:
        for name, minimum in (("every", 1), ("rows", 2)):
            if getattr(self, name) < minimum:
                raise ConfigError(f"validation.{name}={getattr(self, name)} must be at least {minimum}")
        check_fields(self.fields, ("image", "text", "video", "audio"))
