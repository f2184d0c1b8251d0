"""Run the trials of an experiment on domain adaptation and build its page."""

from dataclasses import dataclass
from pathlib import Path

from jobs.reproduce.adaptation.data import data_checksum, load_parts
from jobs.reproduce.adaptation.experiment import AdaptationExperiment, AdaptationSettings
from jobs.reproduce.adaptation.summary import build_page
from jobs.reproduce.adaptation.training import train_and_evaluate
from jobs.reproduce.catalogue import ExperimentName
from jobs.reproduce.seed_statistics import TrialResult, Trials
from xmodal.report.experiment_page import ExperimentPage


@dataclass(frozen=True)
class AdaptationRunner:
    """Runs an experiment on domain adaptation; a `jobs.reproduce.runner.Runner`."""

    name: ExperimentName
    experiment: AdaptationExperiment
    folder: Path

    def prepare(self, settings: AdaptationSettings, to: str) -> None:
        load_parts(self.name, settings.rows, to, self.folder)

    def run_trial(self, arm: str, seed: int, settings: AdaptationSettings, to: str) -> dict[str, object]:
        parts = load_parts(self.name, settings.rows, to, self.folder)
        learner = self.experiment.learner(self.experiment.arms[arm], seed, parts, settings)
        result = train_and_evaluate(learner, settings)
        return {"arm": arm, "seed": seed, "data": data_checksum(self.name, settings.rows, to, self.folder), **result}

    def headline(self, result: TrialResult) -> str:
        last, primary = result["checkpoints"][-1], self.experiment.primary
        return f"{primary} {last['oracle'][primary]:.1%}, source {last['source_test']:.1%}"

    def build_page(self, settings: AdaptationSettings, trials: Trials) -> ExperimentPage:
        return build_page(self.experiment, settings, trials)
