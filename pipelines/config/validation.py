"""How a run measures itself while it trains: held-out rows, and how often."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.config.data import check_fields
from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Retrieval on held-out rows during training."""

    corpus: Annotated[str | None, tyro.conf.arg(name="validation.corpus")] = None
    """held-out pairs on which retrieval is measured while the run goes; None: no validation"""
    every: Annotated[int, tyro.conf.arg(name="validation.every")] = 500
    """steps between two measurements; one more at the end. Training stands still, validation/seconds says how long"""
    rows: Annotated[int, tyro.conf.arg(name="validation.rows")] = 1000
    """of that corpus, evenly spread over it, each with all its captions; every worker keeps its share in memory"""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(name="validation.fields")] = ()
    """field map of that corpus; empty: that of the corpora to train on"""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("rows", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"validation.{name}={getattr(self, name)} must be at least {least}")
        check_fields(self.fields, ("image", "text", "video", "audio"))
