"""What one experiment brings: its data, model, arms, floors and words; training, judging and the page are common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.reproduce.arms import Arm
from jobs.reproduce.catalogue import Name
from jobs.reproduce.learner import Subject
from jobs.reproduce.row_batches import Fields, View, as_they_are

if TYPE_CHECKING:
    from xmodal.report.experiment_page import Page

Splits = dict[str, Fields]  # "train", "validation", "test"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the results of two runs must share to stand in one table."""

    rows: int | None = None  # trained on; None: all
    epochs: int  # passes over them
    batch_size: int
    sgd_rate: float  # learning rate of the arms that train by SGD, after a short warm-up
    adamw_rate: float
    cosine: bool = False  # the rate falls to zero; else it stays, as published


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A result by other means that the arms are seen beside, by the name of the score (shares in [0, 1])."""

    name: str
    about: str
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`read(root, rows)` gives plain tensors, kept beside the results; `view` draws what a step sees of them.

    `subject(arm, train, seed)` is the model with what trains and judges it. `primary` is the score of an arm:
    `multimodal`, or the `average` over tasks; `heads` are the modalities or tasks, `encoders` what has gradients to
    balance. `predictions` name entries of `findings`.
    """

    title: str
    leads: tuple[str, ...]
    needs: Mapping[str, str]  # patterns of files below the folder of data, with what they hold
    settings: Settings
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: Mapping[str, Arm]
    heads: tuple[str, ...]
    encoders: tuple[str, ...]
    primary: str = "multimodal"
    chance: float
    read: Callable[[Path, int | None], Splits]
    subject: Callable[[Arm, Fields, int], Subject]
    view: View = as_they_are
    floors: tuple[Floor, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    predictions: tuple[str, ...] = ()

    def prepare(self, name: Name, settings: Settings, place: str) -> None:
        """Decode the data once, or refuse what is not there, before a process starts."""
        from jobs.reproduce.data import splits

        splits(name, settings.rows, place)

    def trial(self, name: Name, arm: str, seed: int, settings: Settings, place: str) -> dict[str, Any]:
        """One trial, whole."""
        from jobs.reproduce.data import splits
        from jobs.reproduce.trial import trial

        data = splits(name, settings.rows, place)
        subject = self.subject(self.arms[arm], dict(data["train"].fields), seed)
        return {"arm": arm, "seed": seed, **trial(self.arms[arm], seed, data, subject, settings)}

    def headline(self, found: Mapping[str, Any]) -> str:
        """What a finished trial is announced with."""
        share = found["test"].get(self.primary, min(found["test"].values()))
        return f"test {share:.1%}"

    def page(self, settings: Settings, trials: Mapping[str, list[Any]]) -> "Page":
        """Of all trials by arm."""
        from jobs.reproduce.summary import page

        return page(self, settings, trials)
