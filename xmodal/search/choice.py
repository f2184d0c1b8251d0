"""Trials in, the chosen configuration out: the most regularised one within one standard error of the best.

Hastie, Tibshirani & Friedman (2009), §7.10: of configurations that the noise of seeds cannot tell apart, take the one
that departs least. How far one departs is the sum over its fields of where it lies from the plain end of its range.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from xmodal.search.objective import Objective
from xmodal.search.space import Space
from xmodal.search.trial import BASELINE, FINALIST, FINISHED, Trial

PLAIN: Mapping[str, str] = {  # at which end a field regularises most
    "domain.strength": "low",
    "optim.weight_decay": "high",
    "optim.learning_rate": "low",
    "optim.epochs": "low",
    "optim.steps": "low",
    "balance.gamma": "low",
    "model.patch_dropout": "high",
    "domain.smoothing": "high",
    "loss.temperature": "high",
    "target.consistency": "low",
    "target.pseudo_pairs": "low",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A configuration over its seeds; `mean` in the metric's own direction, `error` the standard error of that mean."""

    trial: int  # the first of its trials
    trials: tuple[int, ...]
    values: Mapping[str, Any]
    mean: int | float
    error: int | float
    departure: int | float


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """`standings` best first; `within` are those that one standard error does not tell from the best."""

    trial: int
    best: int
    within: tuple[int, ...]
    standings: tuple[Standing, ...]
    rule: str


def choose(trials: Sequence[Trial], space: Space, objective: Objective) -> Chosen | None:
    """Among finished configurations, those repeated over seeds where there are any; None where nothing finished."""
    found = standings(trials, space, objective)
    if not found:
        return None
    repeated = [one for one in found if len(one.trials) > 1]
    candidates = repeated or found
    best = candidates[0]
    limit = best.mean - objective.sign * best.error
    within = [one for one in candidates if objective.sign * (one.mean - limit) >= -1e-12]
    chosen = min(within, key=lambda one: (one.departure, -objective.sign * one.mean))
    seeds = f"{len(best.trials)} seeds" if repeated else "one seed, so that no spread is known"
    rule = f"departs least of {len(within)} within one standard error ({best.error:.2g}, {seeds}) of the best"
    names = tuple(one.trial for one in within)
    return Chosen(trial=chosen.trial, best=best.trial, within=names, standings=tuple(found), rule=rule)


def standings(trials: Sequence[Trial], space: Space, objective: Objective) -> list[Standing]:
    """One for each configuration that finished, best first."""
    groups: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.status == FINISHED and objective.better(trial) is not None:
            first = trial.parent if trial.kind == FINALIST and trial.parent is not None else trial.number
            groups.setdefault(first, []).append(trial)
    found = [_standing(first, group, space, objective) for first, group in groups.items()]
    return sorted(found, key=lambda one: (-objective.sign * one.mean, one.trial))


def _standing(first: int, group: Sequence[Trial], space: Space, objective: Objective) -> Standing:
    scores = [objective.sign * better for trial in group if (better := objective.better(trial)) is not None]
    error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return Standing(
        trial=first,
        trials=tuple(trial.number for trial in group),
        values=group[0].values,
        mean=mean(scores),
        error=error,
        departure=departure(group[0], space),
    )


def departure(trial: Trial, space: Space) -> int | float:
    """0 for the baseline; else the sum over fields of the way from the end that regularises most, in [0, 1] each.

    An interval departs by its width: with both ends alike there is nothing left to rescale.
    """
    if trial.kind == BASELINE:
        return 0.0
    total = 0.0
    for path, one in space.ranges.items():
        units = one.encode(trial.values[path]) if path in trial.values else None
        if units is None:
            continue
        if one.size > 1:
            total += units[1] * (1 - (1 - math.sqrt(1 - units[0])))
        elif path in PLAIN:
            total += units[0] if PLAIN[path] == "low" else 1 - units[0]
    return total
