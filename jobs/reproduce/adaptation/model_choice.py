"""Choose a model for each method and seed by a validator, and compute the regret of that choice.

A candidate is one strength at one checkpoint. The validator sees `scores` and `health` alone, and those of source-only
after its last step as a baseline; the oracle's metrics of the candidates are read afterwards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.reproduce.adaptation.arms import SOURCE_ONLY, AdaptationArm
from jobs.reproduce.seed_statistics import TrialResult, Trials
from xmodal.metrics.model_selection import Candidate, ModelHealth, regret, select, weighted_spearman

Arms = Mapping[str, AdaptationArm]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model chosen for one method with one seed.

    `oracle` are the oracle's metrics of the chosen model, `source` its accuracy on the source, `best` the highest
    primary metric of all candidates, `rejected` how many candidates the guards rejected.
    """

    arm: str
    step: int
    oracle: Mapping[str, float]
    source: float
    best: float
    regret: float
    rejected: int


@dataclass(frozen=True, kw_only=True)
class _CandidateCheckpoint:
    """A checkpoint of a trial, as `select` reads it and as the trial recorded it."""

    candidate: Candidate
    arm: str
    result: TrialResult


def choose_models(trials: Trials, arms: Arms, method: str, validator: str, primary: str) -> dict[int, ModelChoice]:
    """Return the model that the validator chooses, for every seed that source-only was run with, too."""
    choices = {}
    for seed, (baseline, *others) in _checkpoints_by_seed(trials, arms, method):
        checkpoints = {checkpoint.candidate.name: checkpoint for checkpoint in (baseline, *others)}
        oracle_scores = {name: checkpoint.result["oracle"][primary] for name, checkpoint in checkpoints.items()}
        candidates = [baseline.candidate, *(checkpoint.candidate for checkpoint in others)]
        chosen = select(candidates, validator, baseline=baseline.candidate.name)
        best = checkpoints[chosen.name]
        choices[seed] = ModelChoice(
            arm=best.arm,
            step=best.result["step"],
            oracle=best.result["oracle"],
            source=best.result["source_test"],
            best=max(oracle_scores.values()),
            regret=regret(oracle_scores, chosen.name),
            rejected=len(chosen.rejected),
        )
    return choices


def choose_without_guards(trials: Trials, arms: Arms, method: str, validator: str, primary: str) -> dict[int, float]:
    """Return the oracle's metric, by seed, of the model that the validator chooses when no guard rejects anything."""
    scores = {}
    for seed, checkpoints in _checkpoints_by_seed(trials, arms, method):
        best = max(checkpoints, key=lambda checkpoint: checkpoint.candidate.scores[validator])
        scores[seed] = best.result["oracle"][primary]
    return scores


def rank_correlations(trials: Trials, arms: Arms, method: str, validator: str, primary: str) -> dict[int, float]:
    """Return the weighted Spearman correlation of validator and oracle over all candidates of a method, by seed."""
    correlations = {}
    for seed, checkpoints in _checkpoints_by_seed(trials, arms, method):
        validator_scores = [checkpoint.candidate.scores[validator] for checkpoint in checkpoints]
        oracle_scores = [checkpoint.result["oracle"][primary] for checkpoint in checkpoints]
        correlations[seed] = weighted_spearman(validator_scores, oracle_scores)
    return correlations


def methods_with_trials(trials: Trials, arms: Arms) -> list[str]:
    """Return the methods that were run at any strength, in their order."""
    return [*dict.fromkeys(a.method for name, a in arms.items() if trials.get(name) and a.strength)]


def common_validators(trials: Trials) -> list[str]:
    """Return the names of the scores that every trial has."""
    score_names = [set(trial["checkpoints"][-1]["scores"]) for runs in trials.values() for trial in runs]
    return sorted(set.intersection(*score_names)) if score_names else []


def final_scores(trials: Trials, arm: str, primary: str) -> dict[int, float]:
    """Return the oracle's metric after the last step, by seed."""
    return {trial["seed"]: trial["checkpoints"][-1]["oracle"][primary] for trial in trials.get(arm, ())}


def _checkpoints_by_seed(trials: Trials, arms: Arms, method: str) -> Iterator[tuple[int, list[_CandidateCheckpoint]]]:
    """Yield seeds that source-only and the method were run with: the former's last checkpoint, the latter's all."""
    results = [(name, trial) for name, arm in arms.items() if arm.method == method for trial in trials.get(name, ())]
    for baseline in trials.get(SOURCE_ONLY, ()):
        seed = baseline["seed"]
        of_seed = [(name, trial) for name, trial in results if trial["seed"] == seed]
        checkpoints = [_candidate(name, checkpoint) for name, trial in of_seed for checkpoint in trial["checkpoints"]]
        if checkpoints:
            yield seed, [_candidate(SOURCE_ONLY, baseline["checkpoints"][-1]), *checkpoints]


def _candidate(arm: str, checkpoint: TrialResult) -> _CandidateCheckpoint:
    health = checkpoint["health"]
    model_health = ModelHealth(
        source=health["source"],
        effective_rank=health["effective_rank"],
        mean_cosine=health["mean_cosine"],
        reversed_norm=[health["reversed_norm"]] if health["reversed_norm"] is not None else [],
        critic_accuracy=[health["critic_accuracy"]] if health["critic_accuracy"] is not None else [],
    )
    candidate = Candidate(name=f"{arm} at {checkpoint['step']}", scores=checkpoint["scores"], health=model_health)
    return _CandidateCheckpoint(candidate=candidate, arm=arm, result=checkpoint)
