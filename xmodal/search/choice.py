"""Chooses a configuration of a search: the most regularised one within one standard error of the best.

Hastie, Tibshirani & Friedman (2009), §7.10: of configurations that do not differ by more than the noise of seeds, take
the most regularised one. The departure of a configuration is the sum over its fields of the distance from the end of
the range that regularises most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from xmodal.search.objective import SearchObjective
from xmodal.search.space import SearchSpace
from xmodal.search.trial import BASELINE, FINALIST, FINISHED, Trial

REGULARISED_END: Mapping[str, str] = {  # the end of the range at which a field regularises most
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
class RankedConfig:
    """A configuration with its mean over seeds, in the metric's own direction, and the standard error of that mean."""

    trial: int  # the first of its trials
    trials: tuple[int, ...]
    values: Mapping[str, Any]
    mean: int | float
    error: int | float
    departure: int | float


@dataclass(frozen=True, kw_only=True)
class ChosenConfig:
    """The choice: `standings` are sorted, best first; `within` are those within one standard error of the best."""

    trial: int
    best: int
    within: tuple[int, ...]
    standings: tuple[RankedConfig, ...]
    rule: str


def choose(trials: Sequence[Trial], space: SearchSpace, objective: SearchObjective) -> ChosenConfig | None:
    """Choose among finished configurations, or those repeated over seeds if any; None if none finished."""
    ranking = standings(trials, space, objective)
    if not ranking:
        return None
    repeated = [config for config in ranking if len(config.trials) > 1]
    candidates = repeated or ranking
    best = candidates[0]
    limit = best.mean - objective.sign * best.error
    within = [config for config in candidates if objective.sign * (config.mean - limit) >= -1e-12]
    choice = min(within, key=lambda config: (config.departure, -objective.sign * config.mean))
    seeds = f"{len(best.trials)} seeds" if repeated else "one seed, so that no spread is known"
    rule = f"departs least of {len(within)} within one standard error ({best.error:.2g}, {seeds}) of the best"
    names = tuple(config.trial for config in within)
    return ChosenConfig(trial=choice.trial, best=best.trial, within=names, standings=tuple(ranking), rule=rule)


def standings(trials: Sequence[Trial], space: SearchSpace, objective: SearchObjective) -> list[RankedConfig]:
    """Return one entry for each configuration that finished, best first."""
    groups: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.status == FINISHED and objective.better(trial) is not None:
            first = trial.parent if trial.kind == FINALIST and trial.parent is not None else trial.number
            groups.setdefault(first, []).append(trial)
    ranking = [_rank(first, group, space, objective) for first, group in groups.items()]
    return sorted(ranking, key=lambda config: (-objective.sign * config.mean, config.trial))


def _rank(first: int, group: Sequence[Trial], space: SearchSpace, objective: SearchObjective) -> RankedConfig:
    scores = [objective.sign * better for trial in group if (better := objective.better(trial)) is not None]
    error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return RankedConfig(
        trial=first,
        trials=tuple(trial.number for trial in group),
        values=group[0].values,
        mean=mean(scores),
        error=error,
        departure=departure(group[0], space),
    )


def departure(trial: Trial, space: SearchSpace) -> int | float:
    """Return the sum over fields of the distance, in [0, 1], from the end that regularises most; 0 for the baseline.

    The departure of an interval is its width: if both ends are equal there is nothing left to rescale.
    """
    if trial.kind == BASELINE:
        return 0.0
    total = 0.0
    for path, field_range in space.ranges.items():
        units = field_range.encode(trial.values[path]) if path in trial.values else None
        if units is None:
            continue
        if field_range.size > 1:
            total += units[1] * (1 - (1 - math.sqrt(1 - units[0])))
        elif path in REGULARISED_END:
            total += units[0] if REGULARISED_END[path] == "low" else 1 - units[0]
    return total
