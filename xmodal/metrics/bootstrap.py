"""95 % percentile bootstrap intervals of metrics over queries.

Queries are resampled with replacement (Efron 1979). Nothing is drawn one by one: the number of hits among n draws is
binomial, and the order statistics of n draws are at Beta-distributed positions of the sorted sample. So 10^6 queries
cost what 10^2 cost, and the intervals are those of the resampling itself.
"""

import numpy as np

CONFIDENCE = 0.95


def interval_of_share(share: float, queries: int, *, draws: int, seed: int) -> tuple[float, float]:
    """Return the interval of a share, of so many `queries`, that are hits.

    >>> interval_of_share(1.0, 50, draws=100, seed=0)
    (1.0, 1.0)
    """
    shares = np.random.default_rng(seed).binomial(queries, share, draws) / queries
    return _percentiles(shares)


def interval_of_median(values: np.ndarray, *, draws: int, seed: int) -> tuple[float, float]:
    """Return the interval of the median of `values` [Q]."""
    ordered, n = np.sort(values), len(values)
    random = np.random.default_rng(seed)
    middle = (n + 1) // 2  # the k-th smallest of n draws from (0, 1) is Beta(k, n - k + 1)
    low = random.beta(middle, n - middle + 1, draws)
    high = low if n % 2 else low + (1 - low) * random.beta(1, n - middle, draws)  # the next one, given this one
    return _percentiles((_value_at(ordered, low) + _value_at(ordered, high)) / 2)


def _value_at(ordered: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the values at relative positions in [0, 1) of a sorted sample."""
    return ordered[np.minimum((position * len(ordered)).astype(np.int64), len(ordered) - 1)]


def _percentiles(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(samples, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)
