"""Distances between two domains on held-out features: by fresh probes, MMD and neighbours.

S, T: rows of the source and of the target.  D: width.  Each value comes with the one to expect without a shift. The
critic of a training run is not used: at 50 % it may only be weak. A small gap is no accuracy on the target.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xmodal.errors import CorpusError
from xmodal.losses.discrepancy import BANDWIDTH_SCALES, squared_distances

FOLDS = 5
PROBES: dict[str, Callable[[int], Any]] = {
    "linear": lambda seed: LogisticRegression(C=1.0, max_iter=200),
    "mlp": lambda seed: MLPClassifier((64,), alpha=1e-3, max_iter=40, random_state=seed),
}


@dataclass(frozen=True, kw_only=True)
class DomainGap:
    """A distance, and its distribution for randomly assigned domains: mean `null`, 95 % band `low` to `high`."""

    value: float
    null: float
    low: float
    high: float
    rows: int  # of each domain


def proxy_a_distance(
    source: Float[np.ndarray, "S D"],
    target: Float[np.ndarray, "T D"],
    *,
    seed: int,
    probe: str = "linear",
    rows: int = 1000,
    shuffles: int = 10,
) -> DomainGap:
    """Return 2 (1 - 2 error) of a fresh domain classifier (Ben-David et al. 2007): at most 2, about 0 for guessing.

    `probe` is `linear` (logistic regression) or `mlp` (64 hidden units), on standardised features, 5-fold
    cross-validated, with equally many rows of both domains (at most `rows`). The band is that of `shuffles` shuffled
    labels. CorpusError for fewer than ten rows of a domain; KeyError for another probe.

    >>> rng = np.random.default_rng(0)
    >>> gap = proxy_a_distance(rng.normal(size=(50, 4)), rng.normal(size=(50, 4)) + 9, seed=0, shuffles=2)
    >>> gap.value, gap.rows
    (2.0, 50)
    """
    rng = np.random.default_rng(seed)
    x, domain = _sample_equally(source, target, rows, rng)
    build_probe = PROBES[probe]

    def distance(label: np.ndarray) -> float:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        errors = sum(_count_errors(build_probe(seed), x, label, train, test) for train, test in folds.split(x, label))
        return 2 * (1 - 2 * errors / len(x))

    return _compare_with_null(
        distance(domain), [distance(rng.permutation(domain)) for _ in range(shuffles)], len(x) // 2
    )


def mmd_permutation_band(
    source: Float[np.ndarray, "S D"],
    target: Float[np.ndarray, "T D"],
    *,
    seed: int,
    rows: int = 512,
    shuffles: int = 200,
) -> DomainGap:
    """Return the unbiased MMD² of `xmodal.losses.discrepancy.mmd` with its permutation band.

    It is computed on at most `rows` of each domain. Compare values only for equal `rows`: the width of the band falls
    with them.
    """
    rng = np.random.default_rng(seed)
    x, domain = _sample_equally(source, target, rows, rng)
    squared = squared_distances(torch.from_numpy(x)).numpy()
    off_diagonal = ~np.eye(len(x), dtype=bool)
    median = max(float(np.median(squared[off_diagonal])), np.finfo(float).tiny)
    kernel = np.mean([np.exp(-squared / (scale * median)) for scale in BANDWIDTH_SCALES], 0) * off_diagonal
    is_source = np.stack([domain, *(rng.permutation(domain) for _ in range(shuffles))], 1) == 1
    values = _unbiased_mmd(kernel, is_source)
    return _compare_with_null(float(values[0]), values[1:].tolist(), len(x) // 2)


def neighbour_mixing(
    source: Float[np.ndarray, "S D"], target: Float[np.ndarray, "T D"], *, seed: int, k: int = 10, rows: int = 1000
) -> float:
    """Return the share of a row's `k` nearest from the other domain, relative to a perfect mixture: 0 apart, 1 mixed.

    The mean over equally many rows of both domains; a little above 1 by chance.
    """
    x, domain = _sample_equally(source, target, rows, np.random.default_rng(seed))
    k = min(k, len(x) - 1)
    nearest = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    other_share = (domain[nearest] != domain[:, None]).mean()
    return float(other_share / (len(x) / 2 / (len(x) - 1)))


def _sample_equally(
    source: np.ndarray, target: np.ndarray, largest: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw equally many rows of both domains without replacement, labelled 1 for the source, 0 for the target."""
    count = min(len(source), len(target), largest)
    if count < 2 * FOLDS:
        raise CorpusError(f"{len(source)} source and {len(target)} target rows: a gap needs {2 * FOLDS} of each")
    parts = [rows[rng.choice(len(rows), count, replace=False)] for rows in (source, target)]
    return np.concatenate(parts).astype(np.float64), np.repeat([1, 0], count)


def _count_errors(probe: Any, x: np.ndarray, label: np.ndarray, train: np.ndarray, test: np.ndarray) -> int:
    """Return the number of misclassified test rows of a probe fitted on the train rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that stops early is used as it is
        classifier = make_pipeline(StandardScaler(), probe).fit(x[train], label[train])
    return int((classifier.predict(x[test]) != label[test]).sum())


def _unbiased_mmd(kernel: np.ndarray, is_source: np.ndarray) -> np.ndarray:
    """Return the estimate for each assignment (a column of `is_source` [n, A]); the kernel's diagonal is 0."""
    source, target = is_source.astype(float), (~is_source).astype(float)
    m, n = source[:, 0].sum(), target[:, 0].sum()
    to_source, to_target = kernel @ source, kernel @ target
    within_domains = (source * to_source).sum(0) / (m * (m - 1)) + (target * to_target).sum(0) / (n * (n - 1))
    estimates: np.ndarray = within_domains - 2 * (source * to_target).sum(0) / (m * n)
    return estimates


def _compare_with_null(value: float, null: list[float], rows: int) -> DomainGap:
    """Return the value with mean and 95 % band of the null distribution."""
    low, high = np.percentile(null, [2.5, 97.5]) if null else (float("nan"), float("nan"))
    mean = float(np.mean(null)) if null else float("nan")
    return DomainGap(value=value, null=mean, low=float(low), high=float(high), rows=rows)
