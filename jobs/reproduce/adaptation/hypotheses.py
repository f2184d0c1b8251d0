"""Predictions about adaptation, written down before any run: trials in, what came of each out."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from jobs.reproduce.adaptation.arms import CONTROLS, SOURCE_ONLY
from jobs.reproduce.adaptation.model_choice import ceiling, choices, final, methods, unguarded, validators
from xmodal.report.experiment_page import Finding

if TYPE_CHECKING:
    from jobs.reproduce.adaptation.experiment import Adaptation, Trials

Judge = Callable[["Adaptation", "Trials"], Finding]
ENOUGH = 0.6  # of the gap between source-only and oracle
ON_PREDICTIONS = ("mcc", "bnm")


def findings(experiment: "Adaptation", trials: "Trials", predictions: Sequence[str]) -> list[Finding]:
    return [PREDICTIONS[name](experiment, trials) for name in predictions]


def closed(experiment: "Adaptation", trials: "Trials", method: str) -> list[float]:
    """Share of the gap between source-only and oracle that the chosen models close, by seed."""
    top, floor = ceiling(trials, experiment.primary), final(trials, SOURCE_ONLY, experiment.primary)
    found = choices(trials, experiment.arms, method, experiment.by, experiment.primary)
    return [
        (one.oracle[experiment.primary] - floor[seed]) / (top[seed] - floor[seed])
        for seed, one in found.items()
        if seed in top and top[seed] > floor[seed]
    ]


def gains(experiment: "Adaptation", trials: "Trials", method: str, figure: str | None = None) -> list[float]:
    """The chosen models' figure minus that of source-only, by seed."""
    name = figure or experiment.primary
    floor = final(trials, SOURCE_ONLY, name)
    found = choices(trials, experiment.arms, method, experiment.by, experiment.primary)
    return [one.oracle[name] - floor[seed] for seed, one in found.items()]


def error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 for a single value."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _enough(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "The best method closes 60 % of the gap between source-only and oracle, chosen without target labels."
    shares = {m: mean(found) for m in methods(trials, experiment.arms) if (found := closed(experiment, trials, m))}
    without = [f"{m}, without a target, {shares.pop(m):.0%}" for m in CONTROLS if m in shares]
    if not shares:
        return _untested(prediction)
    best = max(shares, key=shares.__getitem__)
    evidence = "; ".join([f"{best} {shares[best]:.0%}", *without])
    return Finding(prediction=prediction, held=shares[best] >= ENOUGH, evidence=evidence)


def _dann_helps(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "DANN beats source-only on the target by more than two standard errors."
    found = gains(experiment, trials, "dann")
    if len(found) < 2:
        return _untested(prediction)
    return Finding(prediction=prediction, held=mean(found) > 2 * error(found), evidence=_points(found))


def _conditional(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "A critic that reads features x predictions (CDAN) is better than one that reads features (DANN)."
    first, second = gains(experiment, trials, "dann"), gains(experiment, trials, "cdan")
    if not (first and second):
        return _untested(prediction)
    evidence = f"CDAN {_points(second)}, DANN {_points(first)}"
    return Finding(prediction=prediction, held=mean(second) > mean(first), evidence=evidence)


def _without_critic(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "A loss of the predictions alone (MCC or BNM) is better than DANN."
    dann = gains(experiment, trials, "dann")
    others = {m: found for m in ON_PREDICTIONS if (found := gains(experiment, trials, m))}
    if not (dann and others):
        return _untested(prediction)
    best = max(others, key=lambda m: mean(others[m]))
    evidence = f"{best.upper()} {_points(others[best])}, DANN {_points(dann)}"
    return Finding(prediction=prediction, held=mean(others[best]) > mean(dann), evidence=evidence)


def _guards(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "Without guards, some label-free validator chooses a model that is worse than source-only."
    floor = final(trials, SOURCE_ONLY, experiment.primary)
    worst: tuple[float, str] = (0.0, "")
    for method in methods(trials, experiment.arms):
        for by in validators(trials):
            for seed, value in unguarded(trials, experiment.arms, method, by, experiment.primary).items():
                worst = min(worst, (value - floor[seed], f"{by} for {method}, seed {seed}"))
    if not methods(trials, experiment.arms):
        return _untested(prediction)
    evidence = f"{worst[1]}: {100 * worst[0]:+.1f} points" if worst[1] else "none did"
    return Finding(prediction=prediction, held=worst[0] < 0, evidence=evidence)


def _choosing_costs(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "What choosing without labels costs (regret) is more than what the two best methods differ by."
    run = [m for m in methods(trials, experiment.arms) if m not in CONTROLS]
    values = {m: list(choices(trials, experiment.arms, m, experiment.by, experiment.primary).values()) for m in run}
    values = {m: found for m, found in values.items() if found}
    if len(values) < 2:
        return _untested(prediction)
    first, second, *_ = sorted((mean(one.best for one in found) for found in values.values()), reverse=True)
    lost = mean(one.regret for found in values.values() for one in found)
    evidence = f"regret {100 * lost:.1f} points, the best two {100 * (first - second):.1f} apart"
    return Finding(prediction=prediction, held=lost > first - second, evidence=evidence)


def _emoji_gain(experiment: "Adaptation", trials: "Trials", figure: str, least: float, what: str) -> Finding:
    """The best method's gain of a figure, with its error, against the least that would do."""
    found = {m: gain for m in methods(trials, experiment.arms) if (gain := gains(experiment, trials, m, figure))}
    if not found:
        return _untested(what)
    best = max(found, key=lambda m: mean(found[m]))
    held = mean(found[best]) - 2 * error(found[best]) * (least == 0) > 0 and mean(found[best]) >= least
    return Finding(prediction=what, held=held, evidence=f"{best} {_points(found[best])}")


def _seen(experiment: "Adaptation", trials: "Trials") -> Finding:
    what = "The best method wins 10 points of R@10 on seen concepts, chosen without pairs of the target."
    return _emoji_gain(experiment, trials, "seen_r10", 0.10, what)


def _unseen(experiment: "Adaptation", trials: "Trials") -> Finding:
    what = "On unseen concepts it wins more than two standard errors."
    return _emoji_gain(experiment, trials, "unseen_r10", 0.0, what)


def _source_kept(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "The method that wins most on the target loses at most 2 points of R@10 on the source."
    found = {m: gain for m in methods(trials, experiment.arms) if (gain := gains(experiment, trials, m))}
    if not found:
        return _untested(prediction)
    best = max(found, key=lambda m: mean(found[m]))
    plain = {one["seed"]: one["checkpoints"][-1]["source_test"] for one in trials[SOURCE_ONLY]}
    chosen = choices(trials, experiment.arms, best, experiment.by, experiment.primary)
    lost = [plain[seed] - one.source for seed, one in chosen.items()]
    return Finding(prediction=prediction, held=mean(lost) <= 0.02, evidence=f"{best} loses {_points(lost)}")


def _together(experiment: "Adaptation", trials: "Trials") -> Finding:
    prediction = "DANN and MMPareto together are better on the target than either alone."
    alone = final(trials, f"{SOURCE_ONLY}+mmpareto", experiment.primary)
    floor = final(trials, SOURCE_ONLY, experiment.primary)
    both, dann = (gains(experiment, trials, method) for method in ("dann+mmpareto", "dann"))
    balanced = [value - floor[seed] for seed, value in alone.items() if seed in floor]
    if not (both and dann and balanced):
        return _untested(prediction)
    evidence = f"together {_points(both)}, DANN {_points(dann)}, MMPareto {_points(balanced)}"
    return Finding(prediction=prediction, held=mean(both) > max(mean(dann), mean(balanced)), evidence=evidence)


PREDICTIONS: Mapping[str, Judge] = {
    "together": _together,
    "enough": _enough,
    "dann-helps": _dann_helps,
    "conditional": _conditional,
    "without-critic": _without_critic,
    "guards": _guards,
    "choosing-costs": _choosing_costs,
    "seen": _seen,
    "unseen": _unseen,
    "source-kept": _source_kept,
}
ALL = ("enough", "dann-helps", "conditional", "without-critic", "guards", "choosing-costs")
OF_EMOJI = ("seen", "unseen", "source-kept", "dann-helps", "conditional", "without-critic", "guards", "choosing-costs")


def _untested(prediction: str) -> Finding:
    return Finding(prediction=prediction, held=None, evidence="")


def _points(values: Sequence[float]) -> str:
    return f"{100 * mean(values):+.1f} ± {100 * error(values):.1f}"
