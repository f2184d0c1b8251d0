"""Run the trials of an experiment and build its page, whichever kind of experiment it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from jobs.reproduce.adaptation.experiment import AdaptationExperiment
from jobs.reproduce.adaptation.runner import AdaptationRunner
from jobs.reproduce.catalogue import ExperimentName, load_experiment
from jobs.reproduce.data import load_splits
from jobs.reproduce.experiment import BalanceExperiment, BalanceSettings
from jobs.reproduce.seed_statistics import TrialResult, Trials
from jobs.reproduce.summary import build_page
from jobs.reproduce.trial import train_and_test
from xmodal.report.experiment_page import ExperimentPage


class Runner(Protocol):
    """Runs the trials of one experiment on the data in one folder; `to` is the directory of its results."""

    def prepare(self, settings: Any, to: str) -> None:
        """Decode the data once, before any trial starts."""

    def run_trial(self, arm: str, seed: int, settings: Any, to: str) -> dict[str, object]:
        """Train and evaluate one arm with one seed; return plain values for JSON."""

    def headline(self, result: TrialResult) -> str:
        """Return the scores that announce a finished trial."""

    def build_page(self, settings: Any, trials: Trials) -> ExperimentPage:
        """Return the page of all trials so far."""


@dataclass(frozen=True)
class BalanceRunner:
    """Runs an experiment on balanced learning; a `Runner`."""

    name: ExperimentName
    experiment: BalanceExperiment
    folder: Path

    def prepare(self, settings: BalanceSettings, to: str) -> None:
        load_splits(self.name, settings.rows, to, self.folder)

    def run_trial(self, arm: str, seed: int, settings: BalanceSettings, to: str) -> dict[str, object]:
        splits = load_splits(self.name, settings.rows, to, self.folder)
        model = self.experiment.build_model(self.experiment.arms[arm], dict(splits["train"].fields), seed)
        result = train_and_test(self.experiment.arms[arm], seed, splits, model, settings)
        return {"arm": arm, "seed": seed, **result}

    def headline(self, result: TrialResult) -> str:
        score = result["test"].get(self.experiment.primary, min(result["test"].values()))
        return f"test {score:.1%}"

    def build_page(self, settings: BalanceSettings, trials: Trials) -> ExperimentPage:
        return build_page(self.experiment, settings, trials)


def runner_of(name: ExperimentName, folder: Path) -> Runner:
    """Return the runner of an experiment on the data in `folder`."""
    experiment = load_experiment(name)
    if isinstance(experiment, AdaptationExperiment):
        return AdaptationRunner(name, experiment, folder)
    return BalanceRunner(name, cast(BalanceExperiment, experiment), folder)
