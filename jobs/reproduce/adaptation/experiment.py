"""What one experiment on adaptation brings: domains, a learner, arms and words; training and the page are common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from jobs.reproduce.adaptation.arms import Arm
from jobs.reproduce.catalogue import Name
from xmodal.report.experiment_page import Page

Fields = dict[str, torch.Tensor]
Parts = Mapping[str, Fields]  # "source/train", "source/held", "source/test", "target/train", ...
Trials = Mapping[str, list[Any]]  # by arm


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the results of two runs must share to stand in one table."""

    rows: int | None = None  # of each domain, trained on; None: all
    steps: int
    batch_size: int  # of each domain
    sgd_rate: float | None = None  # learning rate at the start
    adamw_rate: float | None = None  # at its peak
    checkpoints: int = 4  # evenly spaced, the last after the last step; validators choose among them


class Learner(Protocol):
    """A model in training on both domains. `progress` in [0, 1) is the share of the run that is over."""

    def step(self, step: int, progress: float) -> dict[str, float]:
        """One update; figures of the critic and of the gradients, if any."""
        ...

    def judge(self, *, last: bool) -> dict[str, Any]:
        """`scores` and `health` without a label of the target; `source_test`; and `oracle`, which chooses nothing.

        After the `last` step also `gap` and `projection`, the figures and pictures of the distance of the domains.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """`read(root, rows)` gives plain tensors, kept beside the results. `by` is the validator that chooses.

    `primary` names the oracle's figure that counts, `figures` all that are shown, with what they are.
    """

    title: str
    leads: tuple[str, ...]
    needs: Mapping[str, str]
    settings: Settings
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: Mapping[str, Arm]
    read: Callable[[Path, int | None], Parts]
    learner: Callable[[Arm, int, Parts, Settings], Learner]
    by: str
    primary: str
    figures: Mapping[str, str]
    chance: float
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # figures of other work
    facts: Mapping[str, str] = field(default_factory=dict)
    predictions: tuple[str, ...] = ()

    def prepare(self, name: Name, settings: Settings, place: str) -> None:
        """Make the data once, or refuse what is not there, before a process starts."""
        from jobs.reproduce.adaptation.data import parts

        parts(name, settings.rows, place)

    def trial(self, name: Name, arm: str, seed: int, settings: Settings, place: str) -> dict[str, Any]:
        """One trial, whole."""
        from jobs.reproduce.adaptation.data import checksum, parts
        from jobs.reproduce.adaptation.training import trial

        data = parts(name, settings.rows, place)
        found = trial(self.learner(self.arms[arm], seed, data, settings), settings)
        return {"arm": arm, "seed": seed, "data": checksum(name, settings.rows, place), **found}

    def headline(self, found: Mapping[str, Any]) -> str:
        """What a finished trial is announced with."""
        last = found["checkpoints"][-1]
        return f"{self.primary} {last['oracle'][self.primary]:.1%}, source {last['source_test']:.1%}"

    def page(self, settings: Settings, trials: Trials) -> Page:
        from jobs.reproduce.adaptation.summary import page

        return page(self, settings, trials)
