"""Held-out features of two domains in, how far apart the domains are out: by fresh probes, MMD and neighbours.

S, T: rows of the source and of the target.  D: width.  Each figure stands beside what it is where there is no shift.
The critic of a training run is not asked: at 50 % it may only be weak. A small gap is no accuracy on the target.
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
from xmodal.losses.discrepancy import SCALES, squared_distances

FOLDS = 5
PROBES: dict[str, Callable[[int], Any]] = {
    "linear": lambda seed: LogisticRegression(C=1.0, max_iter=200),
    "mlp": lambda seed: MLPClassifier((64,), alpha=1e-3, max_iter=40, random_state=seed),
}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A figure and the same with the domains dealt out at random: `null` mean, `low` and `high` its 95 % band."""

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
) -> Gap:
    """2 (1 - 2 error) of a fresh classifier of domains (Ben-David et al. 2007): at most 2, about 0 for guessing.

    `probe` is `linear` (logistic regression) or `mlp` (64 hidden units), on standardised features, 5-fold
    cross-validated, with as many rows of either domain (at most `rows`). The band is that of `shuffles` shuffled
    labels. CorpusError below ten rows of a domain; KeyError for another probe.
    """
    rng = np.random.default_rng(seed)
    x, domain = _balanced(source, target, rows, rng)
    make = PROBES[probe]

    def distance(label: np.ndarray) -> float:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        wrong = sum(_wrong(make(seed), x, label, fit, judge) for fit, judge in folds.split(x, label))
        return 2 * (1 - 2 * wrong / len(x))

    return _against(distance(domain), [distance(rng.permutation(domain)) for _ in range(shuffles)], len(x) // 2)


def mmd_band(
    source: Float[np.ndarray, "S D"],
    target: Float[np.ndarray, "T D"],
    *,
    seed: int,
    rows: int = 512,
    shuffles: int = 200,
) -> Gap:
    """The unbiased MMD² of `xmodal.losses.discrepancy.mmd` with its permutation band, on at most `rows` of each domain.

    Compare values only at equal `rows`: the width of the band falls with them.
    """
    rng = np.random.default_rng(seed)
    x, domain = _balanced(source, target, rows, rng)
    squared = squared_distances(torch.from_numpy(x)).numpy()
    off = ~np.eye(len(x), dtype=bool)
    median = max(float(np.median(squared[off])), np.finfo(float).tiny)
    kernel = np.mean([np.exp(-squared / (scale * median)) for scale in SCALES], 0) * off
    deals = np.stack([domain, *(rng.permutation(domain) for _ in range(shuffles))], 1) == 1
    values = _unbiased(kernel, deals)
    return _against(float(values[0]), values[1:].tolist(), len(x) // 2)


def neighbour_mixing(
    source: Float[np.ndarray, "S D"], target: Float[np.ndarray, "T D"], *, seed: int, k: int = 10, rows: int = 1000
) -> float:
    """How many of a row's `k` nearest are of the other domain, beside the share in a perfect mixture: 0 apart, 1 mixed.

    The mean over as many rows of either domain; a little above 1 by chance.
    """
    x, domain = _balanced(source, target, rows, np.random.default_rng(seed))
    k = min(k, len(x) - 1)
    nearest = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    other = (domain[nearest] != domain[:, None]).mean()
    return float(other / (len(x) / 2 / (len(x) - 1)))


def _balanced(
    source: np.ndarray, target: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Equally many rows of both, drawn without repeats, and 1 for the source, 0 for the target."""
    count = min(len(source), len(target), most)
    if count < 2 * FOLDS:
        raise CorpusError(f"{len(source)} source and {len(target)} target rows: a gap needs {2 * FOLDS} of each")
    parts = [rows[rng.choice(len(rows), count, replace=False)] for rows in (source, target)]
    return np.concatenate(parts).astype(np.float64), np.repeat([1, 0], count)


def _wrong(probe: Any, x: np.ndarray, label: np.ndarray, fit: np.ndarray, judge: np.ndarray) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that stops early is judged as it is
        told = make_pipeline(StandardScaler(), probe).fit(x[fit], label[fit])
    return int((told.predict(x[judge]) != label[judge]).sum())


def _unbiased(kernel: np.ndarray, of_source: np.ndarray) -> np.ndarray:
    """The estimate for each deal (a column of `of_source` [n, deals]); the kernel's diagonal is 0."""
    source, target = of_source.astype(float), (~of_source).astype(float)
    m, n = source[:, 0].sum(), target[:, 0].sum()
    to_source, to_target = kernel @ source, kernel @ target
    within = (source * to_source).sum(0) / (m * (m - 1)) + (target * to_target).sum(0) / (n * (n - 1))
    return within - 2 * (source * to_target).sum(0) / (m * n)


def _against(value: float, null: list[float], rows: int) -> Gap:
    low, high = np.percentile(null, [2.5, 97.5]) if null else (float("nan"), float("nan"))
    middle = float(np.mean(null)) if null else float("nan")
    return Gap(value=value, null=middle, low=float(low), high=float(high), rows=rows)
