"""Trials of a search in; how much each field explains, and the response over two of them, out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xmodal.search.objective import Objective
from xmodal.search.space import Space
from xmodal.search.trial import FINALIST, FINISHED, Trial

FEWEST, TREES, REPEATS = 6, 200, 20
BANDWIDTH = 0.18  # of the unit interval


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much worse a forest explains the metric when this field is shuffled, as a share of its variance."""

    path: str
    mean: float
    sd: float


def samples(trials: Sequence[Trial], space: Space, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
    """Units [n, size] and values [n] of the trials that ran to their end and lie in the space."""
    found = [
        (units, objective.sign * better)
        for trial in trials
        if trial.status == FINISHED and trial.kind != FINALIST
        if (units := trial.units or space.encode(trial.values)) is not None
        if (better := objective.better(trial)) is not None
    ]
    points = np.array([one for one, _ in found], float).reshape(len(found), space.size)
    return points, np.array([value for _, value in found], float)


def importance(trials: Sequence[Trial], space: Space, objective: Objective, *, seed: int = 0) -> list[Importance]:
    """By permutation on a random forest (Breiman 2001) over the units, largest first; nothing for fewer than FEWEST.

    All units of a field are shuffled together. With few trials it is a hint: the spread over shuffles says how loose.
    """
    units, values = samples(trials, space, objective)
    if len(values) < FEWEST or np.ptp(values) == 0:
        return []
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed).fit(units, values)
    draw, error = np.random.default_rng(seed), np.square(forest.predict(units) - values).mean()
    found, at = [], 0
    for path, one in space.ranges.items():
        losses = []
        for _ in range(REPEATS):
            shuffled = units.copy()
            shuffled[:, at : at + one.size] = units[draw.permutation(len(units)), at : at + one.size]
            losses.append((np.square(forest.predict(shuffled) - values).mean() - error) / values.var())
        found.append(Importance(path=path, mean=float(np.mean(losses)), sd=float(np.std(losses))))
        at += one.size
    return sorted(found, key=lambda one: -one.mean)


def surface(
    units: Float[np.ndarray, "n 2"], values: Float[np.ndarray, " n"], cells: int = 12
) -> Float[np.ndarray, "c c"]:
    """The metric over two units, smoothed (Nadaraya-Watson, Gaussian); rows go up the second one, NaN far from any."""
    centres = (np.arange(cells) + 0.5) / cells
    across, up = np.meshgrid(centres, centres)
    squared = (across[..., None] - units[:, 0]) ** 2 + (up[..., None] - units[:, 1]) ** 2
    weight = np.exp(-squared / (2 * BANDWIDTH**2))
    total = weight.sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(total > np.exp(-2.0), (weight * values).sum(-1) / total, np.nan)
