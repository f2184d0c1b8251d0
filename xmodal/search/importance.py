"""How much each field of a search explains of the metric, and the response surface over two fields."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xmodal.search.objective import SearchObjective
from xmodal.search.space import SearchSpace
from xmodal.search.trial import FINALIST, FINISHED, Trial

FEWEST, TREES, REPEATS = 6, 200, 20
BANDWIDTH = 0.18  # of the unit interval


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much worse a random forest predicts the metric if this field is shuffled, as a share of its variance."""

    path: str
    mean: float
    sd: float


def samples(trials: Sequence[Trial], space: SearchSpace, objective: SearchObjective) -> tuple[np.ndarray, np.ndarray]:
    """Return units [n, size] and values [n] of the trials that finished and lie in the space."""
    pairs = [
        (units, objective.sign * better)
        for trial in trials
        if trial.status == FINISHED and trial.kind != FINALIST
        if (units := trial.units or space.encode(trial.values)) is not None
        if (better := objective.better(trial)) is not None
    ]
    points = np.array([units for units, _ in pairs], float).reshape(len(pairs), space.size)
    return points, np.array([value for _, value in pairs], float)


def importance(
    trials: Sequence[Trial], space: SearchSpace, objective: SearchObjective, *, seed: int = 0
) -> list[Importance]:
    """Compute permutation importance with a random forest (Breiman 2001), largest first; [] for too few trials.

    All units of a field are shuffled together. With few trials it is a rough estimate; see the spread over shuffles.
    """
    units, values = samples(trials, space, objective)
    if len(values) < FEWEST or np.ptp(values) == 0:
        return []
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed).fit(units, values)
    draw, error = np.random.default_rng(seed), np.square(forest.predict(units) - values).mean()
    importances, start = [], 0
    for path, field_range in space.ranges.items():
        losses, columns = [], slice(start, start + field_range.size)
        for _ in range(REPEATS):
            shuffled = units.copy()
            shuffled[:, columns] = units[draw.permutation(len(units)), columns]
            losses.append((np.square(forest.predict(shuffled) - values).mean() - error) / values.var())
        importances.append(Importance(path=path, mean=float(np.mean(losses)), sd=float(np.std(losses))))
        start += field_range.size
    return sorted(importances, key=lambda importance: -importance.mean)


def surface(
    units: Float[np.ndarray, "n 2"], values: Float[np.ndarray, " n"], cells: int = 12
) -> Float[np.ndarray, "c c"]:
    """Smooth the metric over two units (Nadaraya-Watson, Gaussian); rows go up the second unit, NaN far from trials."""
    centres = (np.arange(cells) + 0.5) / cells
    across, up = np.meshgrid(centres, centres)
    squared = (across[..., None] - units[:, 0]) ** 2 + (up[..., None] - units[:, 1]) ** 2
    weight = np.exp(-squared / (2 * BANDWIDTH**2))
    total = weight.sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(total > np.exp(-2.0), (weight * values).sum(-1) / total, np.nan)
