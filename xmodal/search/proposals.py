"""Random and grid search: points that do not depend on earlier results.

They depend on seed and number alone, so that a sweep that was killed continues with the same trials.
"""

import itertools
from typing import Any

import numpy as np

from xmodal.search.space import SearchSpace


def random_units(space: SearchSpace, seed: int, number: int) -> tuple[float, ...]:
    """Return a uniform point of the unit cube, as a function of seed and number."""
    return tuple(np.random.default_rng([seed, number]).random(space.size).tolist())


def grid(space: SearchSpace, points: int) -> list[dict[str, Any]]:
    """Return all combinations of at most `points` values of each field."""
    axes = [[(path, value) for value in field_range.grid(points)] for path, field_range in space.ranges.items()]
    return [dict(combination) for combination in itertools.product(*axes)]
