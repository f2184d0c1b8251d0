"""Where a trial lies that nothing found before it decides: space, seed and number in, a point out.

They depend on the number alone, so that a sweep that was killed goes on with the same trials.
"""

import itertools
from typing import Any

import numpy as np

from xmodal.search.space import Space


def random_units(space: Space, seed: int, number: int) -> tuple[float, ...]:
    """Uniform in the unit cube; a function of seed and number."""
    return tuple(np.random.default_rng([seed, number]).random(space.size).tolist())


def grid(space: Space, points: int) -> list[dict[str, Any]]:
    """All combinations of at most `points` values of each field."""
    axes = [[(path, value) for value in one.grid(points)] for path, one in space.ranges.items()]
    return [dict(combination) for combination in itertools.product(*axes)]
