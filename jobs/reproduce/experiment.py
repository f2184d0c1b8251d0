"""The description of an experiment on balanced learning: data, model, arms, reference results and texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.reproduce.arms import BalanceArm
from jobs.reproduce.learner import ExperimentModel
from jobs.reproduce.row_batches import Fields, View, unchanged_view

Splits = dict[str, Fields]  # "train", "validation", "test"


@dataclass(frozen=True, kw_only=True)
class BalanceSettings:
    """How the arms are trained; only results of equal settings stand in one table."""

    rows: int | None = None  # trained on; None: all
    epochs: int  # passes over them
    batch_size: int
    sgd_rate: float  # learning rate of the arms that train by SGD, after a short warm-up
    adamw_rate: float
    cosine: bool = False  # whether the rate falls to zero; else it is constant, as published


@dataclass(frozen=True, kw_only=True)
class ReferenceResult:
    """A result by other means, shown above the arms: shares in [0, 1] by the name of the score."""

    name: str
    about: str
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class BalanceExperiment:
    """An experiment that trains one model with several gradient balancing methods, its arms.

    `read(folder, rows)` returns plain tensors, which are cached beside the results; `view` draws what a step sees of
    them. `build_model(arm, train, seed)` returns the model with its objective and scores. `primary` names the score
    that counts: `multimodal`, or the `average` over tasks. `heads` are the modalities or tasks, `encoders` the modules
    whose gradients are balanced. `predictions` are names of `jobs.reproduce.hypotheses.PREDICTIONS`.

    The texts of `facts` are part of the name of the cached file (`jobs.reproduce.data`): a changed text decodes anew.
    """

    title: str
    intro: tuple[str, ...]
    settings: BalanceSettings
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: Mapping[str, BalanceArm]
    heads: tuple[str, ...]
    encoders: tuple[str, ...]
    primary: str = "multimodal"
    chance: float
    read: Callable[[Path, int | None], Splits]
    build_model: Callable[[BalanceArm, Fields, int], ExperimentModel]
    view: View = unchanged_view
    references: tuple[ReferenceResult, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    predictions: tuple[str, ...] = ()
