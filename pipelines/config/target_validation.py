"""Configuration of the scores on target rows without labels, which are measured during training."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TargetValidationConfig:
    """Scores on held-out rows of the target that need neither labels nor pairs."""

    corpus: Annotated[str | None, tyro.conf.arg(name="target-validation")] = None
    """held-out rows of the target, of which images alone are read; None: no such scores"""
    every: Annotated[int, tyro.conf.arg(name="target-validation.every")] = 500
    """number of steps between two measurements; one more at the end"""
    rows: Annotated[int, tyro.conf.arg(name="target-validation.rows")] = 1000
    """number of rows that are measured, spread evenly over that corpus"""
    scores: Annotated[tuple[str, ...], tyro.conf.arg(name="target-validation.scores")] = ()
    """names of the scores, e.g. information bnm snd mutual_nearest; empty: all that need
    neither labels nor pairs"""

    def __post_init__(self) -> None:
        for name, minimum in (("every", 1), ("rows", 2)):
            if getattr(self, name) < minimum:
                raise ConfigError(f"target-validation.{name}={getattr(self, name)} must be at least {minimum}")
