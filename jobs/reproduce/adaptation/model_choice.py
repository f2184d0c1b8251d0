"""Trials of all strengths in; for each method and seed the model that a validator chooses, and its regret, out.

A candidate is one strength at one checkpoint. The validator sees `scores` and `health` alone, beside those of
source-only after its last step; what the oracle says of the candidates is read afterwards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.reproduce.adaptation.arms import ORACLE, SOURCE_ONLY, Arm
from xmodal.metrics.model_selection import Candidate, Health, regret, select, weighted_spearman

Trials = Mapping[str, Sequence[Mapping[str, Any]]]  # by arm


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen of one method with one seed. `best` is the candidate that the oracle would have taken."""

    arm: str
    step: int
    oracle: Mapping[str, float]
    source: float
    best: float
    regret: float
    rejected: int


@dataclass(frozen=True, kw_only=True)
class _Tried:
    candidate: Candidate
    arm: str
    found: Mapping[str, Any]


def choices(trials: Trials, arms: Mapping[str, Arm], method: str, by: str, primary: str) -> dict[int, Choice]:
    """By seed, where source-only was run with it too."""
    found = {}
    for seed, (plain, tried) in _by_seed(trials, arms, method):
        oracle = {one.candidate.name: one.found["oracle"][primary] for one in (plain, *tried)}
        candidates = [plain.candidate, *(one.candidate for one in tried)]
        chosen = select(candidates, by, baseline=plain.candidate.name)
        taken = next(one for one in (plain, *tried) if one.candidate.name == chosen.name)
        found[seed] = Choice(
            arm=taken.arm,
            step=taken.found["step"],
            oracle=taken.found["oracle"],
            source=taken.found["source_test"],
            best=max(oracle.values()),
            regret=regret(oracle, chosen.name),
            rejected=len(chosen.rejected),
        )
    return found


def unguarded(trials: Trials, arms: Mapping[str, Arm], method: str, by: str, primary: str) -> dict[int, float]:
    """The oracle's figure, by seed, of what the validator takes when no guard rejects anything."""
    found = {}
    for seed, (plain, tried) in _by_seed(trials, arms, method):
        best = max((plain, *tried), key=lambda one: one.candidate.scores[by])
        found[seed] = best.found["oracle"][primary]
    return found


def agreement(trials: Trials, arms: Mapping[str, Arm], method: str, by: str, primary: str) -> dict[int, float]:
    """Weighted Spearman of the validator with the oracle over all candidates of a method, by seed."""
    found = {}
    for seed, (plain, tried) in _by_seed(trials, arms, method):
        both = [(one.candidate.scores[by], one.found["oracle"][primary]) for one in (plain, *tried)]
        found[seed] = weighted_spearman(*map(list, zip(*both, strict=True)))
    return found


def methods(trials: Trials, arms: Mapping[str, Arm]) -> list[str]:
    """Those that were run at any strength, in their order."""
    return [*dict.fromkeys(a.method for name, a in arms.items() if trials.get(name) and a.strength)]


def validators(trials: Trials) -> list[str]:
    """Names of the scores that every trial has."""
    seen = [set(one["checkpoints"][-1]["scores"]) for runs in trials.values() for one in runs]
    return sorted(set.intersection(*seen)) if seen else []


def final(trials: Trials, arm: str, primary: str) -> dict[int, float]:
    """The oracle's figure after the last step, by seed."""
    return {one["seed"]: one["checkpoints"][-1]["oracle"][primary] for one in trials.get(arm, ())}


def ceiling(trials: Trials, primary: str) -> dict[int, float]:
    return final(trials, ORACLE, primary)


def _by_seed(trials: Trials, arms: Mapping[str, Arm], method: str) -> Iterator[tuple[int, tuple[_Tried, list[_Tried]]]]:
    own = [(name, one) for name, arm in arms.items() if arm.method == method for one in trials.get(name, ())]
    for plain in trials.get(SOURCE_ONLY, ()):
        seed = plain["seed"]
        tried = [_tried(name, point) for name, one in own if one["seed"] == seed for point in one["checkpoints"]]
        if tried:
            yield seed, (_tried(SOURCE_ONLY, plain["checkpoints"][-1]), tried)


def _tried(arm: str, found: Mapping[str, Any]) -> _Tried:
    health = found["health"]
    own = Health(
        source=health["source"],
        effective_rank=health["effective_rank"],
        mean_cosine=health["mean_cosine"],
        reversed_norm=[health["reversed_norm"]] if health["reversed_norm"] is not None else [],
        critic_accuracy=[health["critic_accuracy"]] if health["critic_accuracy"] is not None else [],
    )
    candidate = Candidate(name=f"{arm} at {found['step']}", scores=found["scores"], health=own)
    return _Tried(candidate=candidate, arm=arm, found=found)
