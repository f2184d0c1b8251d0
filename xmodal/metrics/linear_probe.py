"""Linear probes: how well labelled classes can be read off frozen embeddings by a linear classifier.

Multinomial logistic regression with an L2 penalty (scikit-learn, L-BFGS), as CLIP's linear probe (Radford et al. 2021,
appendix A.3). The strength of the penalty is chosen on a part of the training vectors, never on the test vectors.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from xmodal.errors import CorpusError
from xmodal.metrics.bootstrap import interval_of_share

STRENGTHS = tuple(10.0**power for power in (-1, 0, 1, 2, 3, 4))  # scikit-learn's C; vectors have length 1
VALIDATION_SHARE = 0.2  # share of the training vectors on which the strength is chosen
MAX_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class LinearProbeResult:
    """Accuracy of a linear probe; `chance` is that of the most frequent training class, `strength` the chosen C."""

    accuracy: float
    chance: float
    strength: float
    trained_on: int
    tested_on: int
    classes: int
    unknown: int  # test vectors of classes that the training vectors lack: always wrong

    def interval(self, *, draws: int, seed: int) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of the accuracy, over test vectors."""
        return interval_of_share(self.accuracy, self.tested_on, draws=draws, seed=seed)


def linear_probe(
    train: np.ndarray,
    train_label: Sequence[str],
    test: np.ndarray,
    test_label: Sequence[str],
    *,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbeResult:
    """Fit on `train` [R, D], test on `test` [S, D]; CorpusError if the training rows have fewer than two classes.

    >>> vectors, label = np.eye(2)[[0, 1] * 10], ["cat", "dog"] * 10
    >>> linear_probe(vectors, label, vectors, label, seed=0).accuracy
    1.0
    """
    counts = Counter(train_label)
    if len(counts) < 2:
        raise CorpusError(f"a linear probe needs at least two classes; all {len(train)} training rows are {[*counts]}")
    labels, test_labels = np.array(train_label), np.array(test_label)
    strength = _choose_strength(train, labels, strengths, seed)
    predicted = _fit(train, labels, strength).predict(test)
    return LinearProbeResult(
        accuracy=float((predicted == test_labels).mean()),
        chance=float((test_labels == counts.most_common(1)[0][0]).mean()),
        strength=strength,
        trained_on=len(train),
        tested_on=len(test),
        classes=len(counts),
        unknown=sum(label not in counts for label in test_label),
    )


def _choose_strength(train: np.ndarray, label: np.ndarray, strengths: Sequence[float], seed: int) -> float:
    """Return the strength that is best on a validation part, the weakest C of equal ones.

    The part is stratified where possible, so that each class is on both sides.
    """
    counts = Counter(label.tolist())
    validation = max(1, round(VALIDATION_SHARE * len(label)))
    stratify = label if min(counts.values()) > 1 and validation >= len(counts) else None
    fit_rows, validation_rows = train_test_split(
        np.arange(len(label)), test_size=validation, random_state=seed, stratify=stratify
    )
    if len(np.unique(label[fit_rows])) < 2:
        return strengths[0]
    scores = [
        (_fit(train[fit_rows], label[fit_rows], c).score(train[validation_rows], label[validation_rows]), -c)
        for c in strengths
    ]
    return -max(scores)[1]


def _fit(vectors: np.ndarray, label: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that stops early is used as it is
        return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(vectors, label)
