"""Predictions about balanced multimodal learning, written down before any run: trials in, what came of each out."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from xmodal.report.experiment import Finding

Trials = Mapping[str, Sequence[Mapping[str, Any]]]  # by arm, paired by seed
EARLY = 1  # epochs that count as first
FEW_CONFLICTS = 0.05


def scores(trials: Trials, arm: str, name: str = "multimodal") -> list[float]:
    """Test accuracies of an arm, by seed; empty where it was not run or has no such head."""
    return [one["test"][name] for one in trials.get(arm, ()) if name in one["test"]]


def findings(trials: Trials) -> list[Finding]:
    """All six, in the order in which they were written down."""
    return [
        _most_of_the_gain(trials),
        _half_of_the_gap(trials),
        _equal(trials, "Under AdamW, MMPareto is the uniform baseline.", "uniform-adamw", "mmpareto-adamw"),
        _few_conflicts(trials),
        _at_least(trials),
        _equal(trials, "Deciding at the features is deciding at the parameters.", "mmpareto-features", "mmpareto"),
    ]


def _most_of_the_gain(trials: Trials) -> Finding:
    prediction = "The unimodal losses bring most of the gain: joint to uniform is more than uniform to MMPareto."
    if not all(scores(trials, arm) for arm in ("joint", "uniform", "mmpareto")):
        return Finding(prediction=prediction, held=None, evidence="")
    first, second = _gain(trials, "joint", "uniform"), _gain(trials, "uniform", "mmpareto")
    evidence = f"{_gap(first)}, then {_gap(second)} points"
    return Finding(prediction=prediction, held=mean(first) > mean(second), evidence=evidence)


def _half_of_the_gap(trials: Trials) -> Finding:
    prediction = "Under SGD, longer steps alone (uniform x gamma) close at least half of the gap to MMPareto."
    if not all(scores(trials, arm) for arm in ("uniform", "uniform-gamma", "mmpareto")):
        return Finding(prediction=prediction, held=None, evidence="")
    step, whole = _gain(trials, "uniform", "uniform-gamma"), _gain(trials, "uniform", "mmpareto")
    return Finding(
        prediction=prediction, held=mean(step) >= mean(whole) / 2, evidence=f"{_gap(step)} of {_gap(whole)} points"
    )


def _few_conflicts(trials: Trials) -> Finding:
    prediction = "Conflicts are rare after the first epoch: fewer than 5 % of the steps, in every encoder."
    found = [epochs[EARLY:] for one in trials.get("mmpareto", ()) for epochs in [one["conflict"]]]
    later = [share for epochs in found for epoch in epochs for share in epoch.values()]
    if not later:
        return Finding(prediction=prediction, held=None, evidence="")
    names = found[0][0]
    by_encoder = {name: mean(epoch[name] for epochs in found for epoch in epochs) for name in names}
    told = ", ".join(f"{name} {share:.1%}" for name, share in by_encoder.items())
    return Finding(prediction=prediction, held=max(by_encoder.values()) < FEW_CONFLICTS, evidence=told)


def _at_least(trials: Trials) -> Finding:
    prediction = "Rescaling over the whole encoder is at least as good as per tensor, as published."
    if not all(scores(trials, arm) for arm in ("mmpareto", "mmpareto-per-tensor")):
        return Finding(prediction=prediction, held=None, evidence="")
    gain = _gain(trials, "mmpareto-per-tensor", "mmpareto")
    return Finding(prediction=prediction, held=mean(gain) >= -_error(gain), evidence=f"{_gap(gain)} points")


def _equal(trials: Trials, prediction: str, one: str, other: str) -> Finding:
    if not (scores(trials, one) and scores(trials, other)):
        return Finding(prediction=prediction, held=None, evidence="")
    gain = _gain(trials, one, other)
    return Finding(prediction=prediction, held=abs(mean(gain)) <= 2 * _error(gain), evidence=f"{_gap(gain)} points")


def _gain(trials: Trials, one: str, other: str) -> list[float]:
    """How much better the other arm is, seed by seed (seeds that both have)."""
    by_seed = {trial["seed"]: trial["test"]["multimodal"] for trial in trials[one]}
    return [t["test"]["multimodal"] - by_seed[t["seed"]] for t in trials[other] if t["seed"] in by_seed]


def _error(gain: Sequence[float]) -> float:
    """Standard error of the mean of paired differences."""
    return stdev(gain) / len(gain) ** 0.5 if len(gain) > 1 else 0.0


def _gap(gain: Sequence[float]) -> str:
    return f"{100 * mean(gain):+.1f} ± {100 * _error(gain):.1f}"
