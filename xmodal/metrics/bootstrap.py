"""How far a figure could have come out otherwise: results of queries in, 95 % percentile bootstrap intervals out.

Queries are drawn again with replacement (Efron 1979). Nothing is drawn one by one: the number of hits among n draws is
binomial, and the order statistics of n draws lie at Beta-distributed places of the sorted sample. So 10^6 queries cost
what 10^2 cost, and the intervals are those of the resampling itself.
"""

import numpy as np

LEVEL = 0.95


def interval_of_share(share: float, queries: int, *, draws: int, seed: int) -> tuple[float, float]:
    """Of the share of `queries` that are hits."""
    drawn = np.random.default_rng(seed).binomial(queries, share, draws) / queries
    return _percentiles(drawn)


def interval_of_median(values: np.ndarray, *, draws: int, seed: int) -> tuple[float, float]:
    """Of the median of `values` [Q]."""
    ordered, n = np.sort(values), len(values)
    random = np.random.default_rng(seed)
    middle = (n + 1) // 2  # the k-th smallest of n draws from (0, 1) is Beta(k, n - k + 1)
    low = random.beta(middle, n - middle + 1, draws)
    high = low if n % 2 else low + (1 - low) * random.beta(1, n - middle, draws)  # the next one, given this one
    return _percentiles((_at(ordered, low) + _at(ordered, high)) / 2)


def interval_of_mean(values: np.ndarray, *, draws: int, seed: int) -> tuple[float, float]:
    """Of the mean of `values` [Q], drawn one by one."""
    random = np.random.default_rng(seed)
    drawn = np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(draws)])
    return _percentiles(drawn)


def _at(ordered: np.ndarray, place: np.ndarray) -> np.ndarray:
    return ordered[np.minimum((place * len(ordered)).astype(np.int64), len(ordered) - 1)]


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
