"""How a run looks at its target while it trains: rows without labels, scores that need none, and how often."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TargetValidation:
    """Label-free scores on held-out rows of the target during training."""

    corpus: Annotated[str | None, tyro.conf.arg(name="target-validation")] = None
    """held-out rows of the target, of which pictures alone are read; None: no such scores"""
    every: Annotated[int, tyro.conf.arg(name="target-validation.every")] = 500
    """steps between two measurements; one more at the end"""
    rows: Annotated[int, tyro.conf.arg(name="target-validation.rows")] = 1000
    """of that corpus, evenly spread over it"""
    scores: Annotated[tuple[str, ...], tyro.conf.arg(name="target-validation.scores")] = ()
    """by name, e.g. information bnm snd mutual_nearest; empty: all that need neither labels nor pairs"""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("rows", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"target-validation.{name}={getattr(self, name)} must be at least {least}")
