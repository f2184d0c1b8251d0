"""95 % intervals contain the true value in about 95 of 100 samples, and equal those of plain resampling."""

import numpy as np
import pytest

from xmodal.metrics.bootstrap import interval_of_median, interval_of_share


def coverage(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def test_intervals_have_their_nominal_coverage() -> None:
    draw = np.random.default_rng(0)
    values, hits = draw.exponential(10, (1000, 80)), draw.binomial(200, 0.3, 1000)

    medians = [interval_of_median(row, draws=400, seed=seed) for seed, row in enumerate(values)]
    shares = [interval_of_share(hit / 200, 200, draws=400, seed=seed) for seed, hit in enumerate(hits.tolist())]
    for intervals, truth in ((medians, 10 * np.log(2)), (shares, 0.3)):
        assert coverage(intervals, truth) == pytest.approx(0.945, abs=0.025)


@pytest.mark.parametrize(("share", "queries"), [(0.02, 50), (0.3, 500), (0.97, 2000)])
def test_the_interval_of_a_share_equals_that_of_resampling(share: float, queries: int) -> None:
    hits = np.arange(queries) < round(share * queries)
    draw = np.random.default_rng(0)
    resampled = [hits[draw.integers(0, queries, queries)].mean() for _ in range(4000)]
    expected = np.percentile(resampled, [2.5, 97.5])
    assert interval_of_share(float(hits.mean()), queries, draws=4000, seed=1) == pytest.approx(expected, abs=0.012)


def test_extreme_shares_have_width_0_and_seeds_repeat() -> None:
    assert interval_of_share(0.0, 10, draws=100, seed=0) == (0.0, 0.0)
    assert interval_of_share(1.0, 10, draws=100, seed=0) == (1.0, 1.0)
    assert interval_of_median(np.array([7]), draws=50, seed=0) == (7.0, 7.0)
    assert interval_of_share(0.4, 90, draws=100, seed=3) == interval_of_share(0.4, 90, draws=100, seed=3)
