"""Predictions about adaptation, written down before any run, and the check of each against the trials."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from jobs.reproduce.adaptation.arms import CONTROLS, ORACLE, SOURCE_ONLY
from jobs.reproduce.adaptation.experiment import AdaptationExperiment
from jobs.reproduce.adaptation.model_choice import (
    ModelChoice,
    choose_models,
    choose_without_guards,
    common_validators,
    final_scores,
    methods_with_trials,
)
from jobs.reproduce.seed_statistics import Trials, standard_error
from xmodal.report.experiment_page import PredictionResult

Check = Callable[[AdaptationExperiment, Trials], PredictionResult]
ENOUGH_OF_GAP = 0.6  # of the gap between source-only and oracle
PREDICTION_LOSSES = ("mcc", "bnm")


def check_predictions(
    experiment: AdaptationExperiment, trials: Trials, predictions: Sequence[str]
) -> list[PredictionResult]:
    """Return the outcome of these predictions, in their order."""
    return [PREDICTIONS[name](experiment, trials) for name in predictions]


def gap_closed(experiment: AdaptationExperiment, trials: Trials, method: str) -> list[float]:
    """Return the share of the gap between source-only and oracle that the chosen models close, by seed."""
    oracle, source_only = (final_scores(trials, arm, experiment.primary) for arm in (ORACLE, SOURCE_ONLY))
    chosen = chosen_models(experiment, trials, method)
    return [
        (choice.oracle[experiment.primary] - source_only[seed]) / (oracle[seed] - source_only[seed])
        for seed, choice in chosen.items()
        if seed in oracle and oracle[seed] > source_only[seed]
    ]


def gains(experiment: AdaptationExperiment, trials: Trials, method: str, metric: str | None = None) -> list[float]:
    """Return the metric of the chosen models minus that of source-only, by seed; None: the primary metric."""
    name = metric or experiment.primary
    source_only = final_scores(trials, SOURCE_ONLY, name)
    return [
        choice.oracle[name] - source_only[seed] for seed, choice in chosen_models(experiment, trials, method).items()
    ]


def chosen_models(experiment: AdaptationExperiment, trials: Trials, method: str) -> dict[int, ModelChoice]:
    """Return the models that the experiment's validator chooses of a method, by seed."""
    return choose_models(trials, experiment.arms, method, experiment.validator, experiment.primary)


def _enough(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "The best method closes 60 % of the gap between source-only and oracle, chosen without target labels."
    methods = methods_with_trials(trials, experiment.arms)
    shares = {m: mean(closed) for m in methods if (closed := gap_closed(experiment, trials, m))}
    controls = [f"{m}, without a target, {shares.pop(m):.0%}" for m in CONTROLS if m in shares]
    if not shares:
        return _not_tested(prediction)
    best = max(shares, key=shares.__getitem__)
    evidence = "; ".join([f"{best} {shares[best]:.0%}", *controls])
    return PredictionResult(prediction=prediction, confirmed=shares[best] >= ENOUGH_OF_GAP, evidence=evidence)


def _dann_helps(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "DANN beats source-only on the target by more than two standard errors."
    differences = gains(experiment, trials, "dann")
    if len(differences) < 2:
        return _not_tested(prediction)
    confirmed = mean(differences) > 2 * standard_error(differences)
    return PredictionResult(prediction=prediction, confirmed=confirmed, evidence=_format_gain(differences))


def _conditional(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "A critic that reads features x predictions (CDAN) is better than one that reads features (DANN)."
    dann, cdan = gains(experiment, trials, "dann"), gains(experiment, trials, "cdan")
    if not (dann and cdan):
        return _not_tested(prediction)
    evidence = f"CDAN {_format_gain(cdan)}, DANN {_format_gain(dann)}"
    return PredictionResult(prediction=prediction, confirmed=mean(cdan) > mean(dann), evidence=evidence)


def _without_critic(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "A loss of the predictions alone (MCC or BNM) is better than DANN."
    dann = gains(experiment, trials, "dann")
    others = {m: differences for m in PREDICTION_LOSSES if (differences := gains(experiment, trials, m))}
    if not (dann and others):
        return _not_tested(prediction)
    best = max(others, key=lambda m: mean(others[m]))
    evidence = f"{best.upper()} {_format_gain(others[best])}, DANN {_format_gain(dann)}"
    return PredictionResult(prediction=prediction, confirmed=mean(others[best]) > mean(dann), evidence=evidence)


def _guards(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "Without guards, some label-free validator chooses a model that is worse than source-only."
    source_only = final_scores(trials, SOURCE_ONLY, experiment.primary)
    methods = methods_with_trials(trials, experiment.arms)
    worst: tuple[float, str] = (0.0, "")
    for method, validator in itertools.product(methods, common_validators(trials)):
        scores = choose_without_guards(trials, experiment.arms, method, validator, experiment.primary)
        for seed, value in scores.items():
            worst = min(worst, (value - source_only[seed], f"{validator} for {method}, seed {seed}"))
    if not methods:
        return _not_tested(prediction)
    evidence = f"{worst[1]}: {100 * worst[0]:+.1f} points" if worst[1] else "none did"
    return PredictionResult(prediction=prediction, confirmed=worst[0] < 0, evidence=evidence)


def _choosing_costs(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "What choosing without labels costs (regret) is more than what the two best methods differ by."
    methods = [m for m in methods_with_trials(trials, experiment.arms) if m not in CONTROLS]
    chosen = {m: choices for m in methods if (choices := [*chosen_models(experiment, trials, m).values()])}
    if len(chosen) < 2:
        return _not_tested(prediction)
    first, second, *_ = sorted((mean(choice.best for choice in choices) for choices in chosen.values()), reverse=True)
    mean_regret = mean(choice.regret for choices in chosen.values() for choice in choices)
    evidence = f"regret {100 * mean_regret:.1f} points, the best two {100 * (first - second):.1f} apart"
    return PredictionResult(prediction=prediction, confirmed=mean_regret > first - second, evidence=evidence)


def _emoji_gain(
    experiment: AdaptationExperiment, trials: Trials, metric: str, required: float, prediction: str
) -> PredictionResult:
    """Check whether the best method gains at least `required` of a metric; if 0 is required, by two standard errors."""
    methods = methods_with_trials(trials, experiment.arms)
    by_method = {m: gain for m in methods if (gain := gains(experiment, trials, m, metric))}
    if not by_method:
        return _not_tested(prediction)
    best = max(by_method, key=lambda m: mean(by_method[m]))
    gain = by_method[best]
    confirmed = mean(gain) - 2 * standard_error(gain) * (required == 0) > 0 and mean(gain) >= required
    return PredictionResult(prediction=prediction, confirmed=confirmed, evidence=f"{best} {_format_gain(gain)}")


def _seen_concepts(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "The best method wins 10 points of R@10 on seen concepts, chosen without pairs of the target."
    return _emoji_gain(experiment, trials, "seen_r10", 0.10, prediction)


def _unseen_concepts(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "On unseen concepts it wins more than two standard errors."
    return _emoji_gain(experiment, trials, "unseen_r10", 0.0, prediction)


def _source_kept(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "The method that wins most on the target loses at most 2 points of R@10 on the source."
    methods = methods_with_trials(trials, experiment.arms)
    by_method = {m: gain for m in methods if (gain := gains(experiment, trials, m))}
    if not by_method:
        return _not_tested(prediction)
    best = max(by_method, key=lambda m: mean(by_method[m]))
    source_only = {trial["seed"]: trial["checkpoints"][-1]["source_test"] for trial in trials[SOURCE_ONLY]}
    chosen = chosen_models(experiment, trials, best)
    losses = [source_only[seed] - choice.source for seed, choice in chosen.items()]
    evidence = f"{best} loses {_format_gain(losses)}"
    return PredictionResult(prediction=prediction, confirmed=mean(losses) <= 0.02, evidence=evidence)


def _together(experiment: AdaptationExperiment, trials: Trials) -> PredictionResult:
    prediction = "DANN and MMPareto together are better on the target than either alone."
    mmpareto = final_scores(trials, f"{SOURCE_ONLY}+mmpareto", experiment.primary)
    source_only = final_scores(trials, SOURCE_ONLY, experiment.primary)
    both, dann = (gains(experiment, trials, method) for method in ("dann+mmpareto", "dann"))
    balanced = [value - source_only[seed] for seed, value in mmpareto.items() if seed in source_only]
    if not (both and dann and balanced):
        return _not_tested(prediction)
    evidence = f"together {_format_gain(both)}, DANN {_format_gain(dann)}, MMPareto {_format_gain(balanced)}"
    confirmed = mean(both) > max(mean(dann), mean(balanced))
    return PredictionResult(prediction=prediction, confirmed=confirmed, evidence=evidence)


PREDICTIONS: Mapping[str, Check] = {
    "together": _together,
    "enough": _enough,
    "dann-helps": _dann_helps,
    "conditional": _conditional,
    "without-critic": _without_critic,
    "guards": _guards,
    "choosing-costs": _choosing_costs,
    "seen": _seen_concepts,
    "unseen": _unseen_concepts,
    "source-kept": _source_kept,
}
DIGIT_PREDICTIONS = ("enough", "dann-helps", "conditional", "without-critic", "guards", "choosing-costs")
EMOJI_PREDICTIONS = ("seen", "unseen", "source-kept", *DIGIT_PREDICTIONS[1:])


def _not_tested(prediction: str) -> PredictionResult:
    return PredictionResult(prediction=prediction, confirmed=None, evidence="")


def _format_gain(values: Sequence[float]) -> str:
    """Return mean and standard error over seeds, in points."""
    return f"{100 * mean(values):+.1f} ± {100 * standard_error(values):.1f}"
