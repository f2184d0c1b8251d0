"""What frozen embeddings hold for a linear reader: labelled vectors to fit on and to test on in, accuracy out.

Multinomial logistic regression with an L2 penalty (scikit-learn, L-BFGS), as CLIP's linear probe (Radford et al. 2021,
appendix A.3). The strength of the penalty is chosen on a part of the training vectors; the test vectors choose nothing.
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
HELD_BACK = 0.2  # share of the training vectors that chooses among them
ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """`chance`: always naming the most frequent class of the training vectors. `strength`: the chosen C."""

    accuracy: float
    chance: float
    strength: float
    trained_on: int
    tested_on: int
    classes: int
    unknown: int  # test vectors of classes that the training vectors lack: always wrong

    def interval(self, *, draws: int, seed: int) -> tuple[float, float]:
        """95 % bootstrap interval of the accuracy, over test vectors."""
        return interval_of_share(self.accuracy, self.tested_on, draws=draws, seed=seed)


def linear_probe(
    train: np.ndarray,
    train_label: Sequence[str],
    test: np.ndarray,
    test_label: Sequence[str],
    *,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Fit on `train` [R, D], judge on `test` [S, D]; CorpusError where there are not two classes to tell apart."""
    known = Counter(train_label)
    if len(known) < 2:
        raise CorpusError(f"a linear probe needs at least two classes; all {len(train)} training rows are {[*known]}")
    labels, wanted = np.array(train_label), np.array(test_label)
    strength = _choose(train, labels, strengths, seed)
    predicted = _fit(train, labels, strength).predict(test)
    return LinearProbe(
        accuracy=float((predicted == wanted).mean()),
        chance=float((wanted == known.most_common(1)[0][0]).mean()),
        strength=strength,
        trained_on=len(train),
        tested_on=len(test),
        classes=len(known),
        unknown=sum(label not in known for label in test_label),
    )


def _choose(train: np.ndarray, label: np.ndarray, strengths: Sequence[float], seed: int) -> float:
    """The strength that is best on a part held back, the weakest C among equals; each class is in both where it can."""
    counts = Counter(label.tolist())
    held_back = max(1, round(HELD_BACK * len(label)))
    stratify = label if min(counts.values()) > 1 and held_back >= len(counts) else None
    fit_on, judge_on = train_test_split(
        np.arange(len(label)), test_size=held_back, random_state=seed, stratify=stratify
    )
    if len(np.unique(label[fit_on])) < 2:
        return strengths[0]
    found = [(_fit(train[fit_on], label[fit_on], c).score(train[judge_on], label[judge_on]), -c) for c in strengths]
    return -max(found)[1]


def _fit(vectors: np.ndarray, label: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that stops early is judged as it is
        return LogisticRegression(C=strength, max_iter=ITERATIONS).fit(vectors, label)
