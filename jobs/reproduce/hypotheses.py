"""Predictions about balanced learning, written down before any run: trials in, what came of each out."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from xmodal.report.experiment_page import Finding

Trials = Mapping[str, Sequence[Mapping[str, Any]]]  # by arm, paired by seed
Judge = Callable[[Trials, str], Finding]
EARLY = 1  # epochs that count as first
FEW_CONFLICTS = 0.05
ENOUGH_SEEDS = 2  # to speak of an error


def scores(trials: Trials, arm: str, name: str) -> list[float]:
    """Test accuracies of an arm, by seed; empty where it was not run or has no such head."""
    return [one["test"][name] for one in trials.get(arm, ()) if name in one["test"]]


def findings(trials: Trials, predictions: Sequence[str], primary: str) -> list[Finding]:
    """What came of these predictions, in their order; `primary` names the score that decides."""
    return [PREDICTIONS[name](trials, primary) for name in predictions]


def _most_of_the_gain(trials: Trials, primary: str) -> Finding:
    prediction = "The unimodal losses bring most of the gain: joint to uniform is more than uniform to MMPareto."
    if not all(scores(trials, arm, primary) for arm in ("joint", "uniform", "mmpareto")):
        return _untested(prediction)
    first, second = _gain(trials, "joint", "uniform", primary), _gain(trials, "uniform", "mmpareto", primary)
    return _positive(
        prediction,
        _margin(trials, primary, ("joint", "uniform", "mmpareto"), (-1, 2, -1)),
        f"{_gap(first)}, then {_gap(second)} points",
    )


def _half_of_the_gap(trials: Trials, primary: str) -> Finding:
    prediction = "Under SGD, longer steps alone (uniform x gamma) close at least half of the gap to MMPareto."
    if not all(scores(trials, arm, primary) for arm in ("uniform", "uniform-gamma", "mmpareto")):
        return _untested(prediction)
    step, whole = _gain(trials, "uniform", "uniform-gamma", primary), _gain(trials, "uniform", "mmpareto", primary)
    return _positive(
        prediction,
        _margin(trials, primary, ("uniform", "uniform-gamma", "mmpareto"), (-0.5, 1, -0.5)),
        f"{_gap(step)} of {_gap(whole)} points",
    )


def _few_conflicts(trials: Trials, primary: str) -> Finding:
    prediction = "Conflicts are rare after the first epoch: fewer than 5 % of the steps, in every encoder."
    found = [epochs[EARLY:] for one in trials.get("mmpareto", ()) for epochs in [one["conflict"]]]
    later = [share for epochs in found for epoch in epochs for share in epoch.values()]
    if not later:
        return _untested(prediction)
    names = found[0][0]
    by_encoder = {name: mean(epoch[name] for epochs in found for epoch in epochs) for name in names}
    told = ", ".join(f"{name} {share:.1%}" for name, share in by_encoder.items())
    return Finding(prediction=prediction, held=max(by_encoder.values()) < FEW_CONFLICTS, evidence=told)


def _whole_encoder(trials: Trials, primary: str) -> Finding:
    prediction = "Rescaling over the whole encoder is at least as good as per tensor, as published."
    return _at_least(trials, prediction, "mmpareto-per-tensor", "mmpareto", primary)


def _adamw(trials: Trials, primary: str) -> Finding:
    prediction = "Under AdamW, MMPareto is the uniform baseline."
    return _equal(trials, prediction, "uniform-adamw", "mmpareto-adamw", primary)


def _features(trials: Trials, primary: str) -> Finding:
    prediction = "Deciding at the features is deciding at the parameters."
    return _equal(trials, prediction, "mmpareto-features", "mmpareto", primary)


def _sharing_costs(trials: Trials, primary: str) -> Finding:
    prediction = "Under the plain sum, sharing the encoder costs the harder task against a model of its own."
    alone, shared = scores(trials, "hard-alone", "hard"), scores(trials, "uniform", "hard")
    if not (alone and shared):
        return _untested(prediction)
    gain = _gain(trials, "uniform", "hard-alone", "hard")
    return Finding(prediction=prediction, held=mean(gain) > _error(gain), evidence=f"{_gap(gain)} points alone")


def _harder_task(trials: Trials, primary: str) -> Finding:
    prediction = "MMPareto lifts the harder task above uniform with steps as long (uniform x gamma)."
    if not all(scores(trials, arm, "hard") for arm in ("uniform-gamma", "mmpareto")):
        return _untested(prediction)
    gain = _gain(trials, "uniform-gamma", "mmpareto", "hard")
    return Finding(prediction=prediction, held=mean(gain) > _error(gain), evidence=f"{_gap(gain)} points")


PREDICTIONS: Mapping[str, Judge] = {
    "most-of-the-gain": _most_of_the_gain,
    "half-of-the-gap": _half_of_the_gap,
    "adamw": _adamw,
    "few-conflicts": _few_conflicts,
    "whole-encoder": _whole_encoder,
    "features": _features,
    "sharing-costs": _sharing_costs,
    "harder-task": _harder_task,
}
OF_MODALITIES = ("most-of-the-gain", "half-of-the-gap", "adamw", "few-conflicts", "whole-encoder", "features")
OF_TASKS = ("sharing-costs", "harder-task", "half-of-the-gap", "few-conflicts", "features")


def _untested(prediction: str) -> Finding:
    return Finding(prediction=prediction, held=None, evidence="")


def _margin(trials: Trials, name: str, arms: Sequence[str], weights: Sequence[float]) -> list[float]:
    """The weighted sum of arms' scores, seed by seed (seeds that all have)."""
    by_seed = [{one["seed"]: one["test"][name] for one in trials[arm]} for arm in arms]
    shared = sorted(set.intersection(*map(set, by_seed)))
    return [sum(w * found[seed] for w, found in zip(weights, by_seed, strict=True)) for seed in shared]


def _positive(prediction: str, margin: Sequence[float], evidence: str) -> Finding:
    """Whether a margin, seed by seed, is above 0; undecided within one standard error of it."""
    decided = abs(mean(margin)) > _error(margin)
    return Finding(prediction=prediction, held=mean(margin) > 0 if decided else None, evidence=evidence)


def _at_least(trials: Trials, prediction: str, one: str, other: str, primary: str) -> Finding:
    if not (scores(trials, one, primary) and scores(trials, other, primary)):
        return _untested(prediction)
    gain = _gain(trials, one, other, primary)
    return Finding(prediction=prediction, held=mean(gain) >= -_error(gain), evidence=f"{_gap(gain)} points")


def _equal(trials: Trials, prediction: str, one: str, other: str, primary: str) -> Finding:
    if not (scores(trials, one, primary) and scores(trials, other, primary)):
        return _untested(prediction)
    gain = _gain(trials, one, other, primary)
    return Finding(prediction=prediction, held=abs(mean(gain)) <= 2 * _error(gain), evidence=f"{_gap(gain)} points")


def _gain(trials: Trials, one: str, other: str, name: str) -> list[float]:
    """How much better the other arm is, seed by seed (seeds that both have)."""
    by_seed = {trial["seed"]: trial["test"][name] for trial in trials[one]}
    return [t["test"][name] - by_seed[t["seed"]] for t in trials[other] if t["seed"] in by_seed]


def _error(gain: Sequence[float]) -> float:
    """Standard error of the mean of paired differences."""
    return stdev(gain) / len(gain) ** 0.5 if len(gain) >= ENOUGH_SEEDS else 0.0


def _gap(gain: Sequence[float]) -> str:
    return f"{100 * mean(gain):+.1f} ± {100 * _error(gain):.1f}"
