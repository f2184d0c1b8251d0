"""Predictions about balanced learning, written down before any run, and the check of each against the trials."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from jobs.reproduce.seed_statistics import Trials, standard_error
from xmodal.report.experiment_page import PredictionResult

Check = Callable[[Trials, str], PredictionResult]
EARLY_EPOCHS = 1  # epochs that count as first
FEW_CONFLICTS = 0.05  # share of the steps


def scores_by_seed(trials: Trials, arm: str, name: str) -> list[float]:
    """Return the test accuracies of an arm, by seed; an empty list where it was not run or has no such head."""
    return [trial["test"][name] for trial in trials.get(arm, ()) if name in trial["test"]]


def check_predictions(trials: Trials, predictions: Sequence[str], primary: str) -> list[PredictionResult]:
    """Return the outcome of these predictions, in their order; `primary` names the score that decides."""
    return [PREDICTIONS[name](trials, primary) for name in predictions]


def _most_of_the_gain(trials: Trials, primary: str) -> PredictionResult:
    prediction = "The unimodal losses bring most of the gain: joint to uniform is more than uniform to MMPareto."
    if not all(scores_by_seed(trials, arm, primary) for arm in ("joint", "uniform", "mmpareto")):
        return _not_tested(prediction)
    first = _paired_differences(trials, "joint", "uniform", primary)
    second = _paired_differences(trials, "uniform", "mmpareto", primary)
    return _positive(
        prediction,
        _margin(trials, primary, ("joint", "uniform", "mmpareto"), (-1, 2, -1)),
        f"{_format_gain(first)}, then {_format_gain(second)} points",
    )


def _half_of_the_gap(trials: Trials, primary: str) -> PredictionResult:
    prediction = "Under SGD, longer steps alone (uniform x gamma) close at least half of the gap to MMPareto."
    if not all(scores_by_seed(trials, arm, primary) for arm in ("uniform", "uniform-gamma", "mmpareto")):
        return _not_tested(prediction)
    step = _paired_differences(trials, "uniform", "uniform-gamma", primary)
    whole = _paired_differences(trials, "uniform", "mmpareto", primary)
    return _positive(
        prediction,
        _margin(trials, primary, ("uniform", "uniform-gamma", "mmpareto"), (-0.5, 1, -0.5)),
        f"{_format_gain(step)} of {_format_gain(whole)} points",
    )


def _few_conflicts(trials: Trials, primary: str) -> PredictionResult:
    prediction = "Conflicts are rare after the first epoch: fewer than 5 % of the steps, in every encoder."
    later_epochs = [epochs[EARLY_EPOCHS:] for trial in trials.get("mmpareto", ()) for epochs in [trial["conflict"]]]
    shares = [share for epochs in later_epochs for epoch in epochs for share in epoch.values()]
    if not shares:
        return _not_tested(prediction)
    names = later_epochs[0][0]
    by_encoder = {name: mean(epoch[name] for epochs in later_epochs for epoch in epochs) for name in names}
    evidence = ", ".join(f"{name} {share:.1%}" for name, share in by_encoder.items())
    rare = max(by_encoder.values()) < FEW_CONFLICTS
    return PredictionResult(prediction=prediction, confirmed=rare, evidence=evidence)


def _whole_encoder(trials: Trials, primary: str) -> PredictionResult:
    prediction = "Rescaling over the whole encoder is at least as good as per tensor, as published."
    return _at_least(trials, prediction, "mmpareto-per-tensor", "mmpareto", primary)


def _adamw(trials: Trials, primary: str) -> PredictionResult:
    prediction = "Under AdamW, MMPareto is the uniform baseline."
    return _equal(trials, prediction, "uniform-adamw", "mmpareto-adamw", primary)


def _features(trials: Trials, primary: str) -> PredictionResult:
    prediction = "Deciding at the features is deciding at the parameters."
    return _equal(trials, prediction, "mmpareto-features", "mmpareto", primary)


def _sharing_costs(trials: Trials, primary: str) -> PredictionResult:
    prediction = "Under the plain sum, sharing the encoder costs the harder task against a model of its own."
    return _compare_arms(
        trials, prediction, "uniform", "hard-alone", "hard", lambda gain, error: gain > error, "points alone"
    )


def _harder_task(trials: Trials, primary: str) -> PredictionResult:
    prediction = "MMPareto lifts the harder task above uniform with steps as long (uniform x gamma)."
    return _compare_arms(trials, prediction, "uniform-gamma", "mmpareto", "hard", lambda gain, error: gain > error)


PREDICTIONS: Mapping[str, Check] = {
    "most-of-the-gain": _most_of_the_gain,
    "half-of-the-gap": _half_of_the_gap,
    "adamw": _adamw,
    "few-conflicts": _few_conflicts,
    "whole-encoder": _whole_encoder,
    "features": _features,
    "sharing-costs": _sharing_costs,
    "harder-task": _harder_task,
}
MODALITY_PREDICTIONS = ("most-of-the-gain", "half-of-the-gap", "adamw", "few-conflicts", "whole-encoder", "features")
TASK_PREDICTIONS = ("sharing-costs", "harder-task", "half-of-the-gap", "few-conflicts", "features")


def _not_tested(prediction: str) -> PredictionResult:
    return PredictionResult(prediction=prediction, confirmed=None, evidence="")


def _margin(trials: Trials, name: str, arms: Sequence[str], weights: Sequence[float]) -> list[float]:
    """Return the weighted sum of the arms' scores for every seed that all of them have."""
    by_seed = [{trial["seed"]: trial["test"][name] for trial in trials[arm]} for arm in arms]
    shared = sorted(set.intersection(*map(set, by_seed)))
    return [sum(w * scores[seed] for w, scores in zip(weights, by_seed, strict=True)) for seed in shared]


def _positive(prediction: str, margin: Sequence[float], evidence: str) -> PredictionResult:
    """Return whether a margin is above 0 on average over the seeds; undecided within one standard error."""
    decided = abs(mean(margin)) > standard_error(margin)
    return PredictionResult(prediction=prediction, confirmed=mean(margin) > 0 if decided else None, evidence=evidence)


def _at_least(trials: Trials, prediction: str, baseline: str, arm: str, primary: str) -> PredictionResult:
    return _compare_arms(trials, prediction, baseline, arm, primary, lambda gain, error: gain >= -error)


def _equal(trials: Trials, prediction: str, baseline: str, arm: str, primary: str) -> PredictionResult:
    return _compare_arms(trials, prediction, baseline, arm, primary, lambda gain, error: abs(gain) <= 2 * error)


def _compare_arms(
    trials: Trials,
    prediction: str,
    baseline: str,
    arm: str,
    score: str,
    confirms: Callable[[float, float], bool],
    unit: str = "points",
) -> PredictionResult:
    """Return whether the gain of an arm over its baseline, with its standard error, confirms a prediction."""
    if not (scores_by_seed(trials, baseline, score) and scores_by_seed(trials, arm, score)):
        return _not_tested(prediction)
    gain = _paired_differences(trials, baseline, arm, score)
    confirmed = confirms(mean(gain), standard_error(gain))
    return PredictionResult(prediction=prediction, confirmed=confirmed, evidence=f"{_format_gain(gain)} {unit}")


def _paired_differences(trials: Trials, baseline: str, arm: str, name: str) -> list[float]:
    """Return how much higher the score of `arm` is than that of `baseline`, for every seed that both have."""
    by_seed = {trial["seed"]: trial["test"][name] for trial in trials[baseline]}
    return [result["test"][name] - by_seed[result["seed"]] for result in trials[arm] if result["seed"] in by_seed]


def _format_gain(gain: Sequence[float]) -> str:
    """Return mean and standard error of paired differences, in points."""
    return f"{100 * mean(gain):+.1f} ± {100 * standard_error(gain):.1f}"
