"""The description of an experiment on domain adaptation: domains, learner, arms and texts; and what a learner does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jobs.reproduce.adaptation.arms import AdaptationArm
from jobs.reproduce.row_batches import Fields

Parts = Mapping[str, Fields]  # "source/train", "source/held", "source/test", "target/train", ...


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """How the arms are trained; only results of equal settings stand in one table."""

    rows: int | None = None  # of each domain, trained on; None: all
    steps: int
    batch_size: int  # of each domain
    sgd_rate: float | None = None  # learning rate at the start
    adamw_rate: float | None = None  # learning rate at its peak
    checkpoints: int = 4  # evenly spaced, the last after the last step; validators choose among them


class Learner(Protocol):
    """A model in training on both domains. `progress` in [0, 1) is the share of the run that is over."""

    def step(self, step: int, progress: float) -> dict[str, float]:
        """Update the weights once; return metrics of the loss, the critic and the gradients."""
        ...

    def evaluate(self, *, last: bool) -> dict[str, Any]:
        """Return `scores`, `health` and `source_test`, which use no label of the target, and `oracle`, which does.

        The oracle's metrics choose nothing. After the `last` step the result has also `gap`, the distances of the
        domains, and `projection`, the coordinates of their plots.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AdaptationExperiment:
    """An experiment that trains one learner with several adaptation methods, each at several strengths.

    `read(folder, rows)` returns plain tensors, which are cached beside the results. `validator` names the score that
    chooses a strength and a checkpoint without labels of the target. `primary` names the oracle's metric that counts,
    `metrics` all that are shown, each with its title. `predictions` are names of
    `jobs.reproduce.adaptation.hypotheses.PREDICTIONS`.

    The texts of `facts` are part of the name of the cached file (`load_parts`): a changed text decodes anew.
    """

    title: str
    intro: tuple[str, ...]
    settings: AdaptationSettings
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: Mapping[str, AdaptationArm]
    read: Callable[[Path, int | None], Parts]
    learner: Callable[[AdaptationArm, int, Parts, AdaptationSettings], Learner]
    validator: str
    primary: str
    metrics: Mapping[str, str]
    chance: float
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metrics of other work, by its name
    facts: Mapping[str, str] = field(default_factory=dict)
    predictions: tuple[str, ...] = ()
