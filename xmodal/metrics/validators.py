"""What a model shows without any label of the target in; scores that may choose among models, higher is better, out.

S: held-out source rows.  R: source rows trained on.  T: held-out target rows, unlabelled.  K, J: classes, or
captions of a bank (of the target, of the source).  D: width.

None of them knows whether a prediction is right. Those on predictions (`entropy`, `information`, `bnm`, `snd`) like a
model that has collapsed in the right way, so `xmodal.metrics.model_selection` rejects candidates first. Predictions
are to be made at one temperature for all candidates: a trained one would win by growing sharp.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from xmodal.errors import ConfigError, nearest
from xmodal.losses.pseudo_pairs import mutual_nearest

TEMPERATURE = 0.07  # of cosines, where predictions are made over a bank: CLIP's at its start
SHARP = 0.05  # of soft neighbourhoods, as published
ORACLE = "oracle"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a validator may look at; what is None cannot be asked for.

    `target` and `source` are class scores before the softmax (of a bank: `bank_scores`); features are what the scores
    are made of; `texts` are unit embeddings to pair with `target_features`, also unit rows.
    """

    target: Float[Tensor, "T K"] | None = None
    source: Float[Tensor, "S J"] | None = None
    source_label: Int64[Tensor, "S"] | None = None
    source_features: Float[Tensor, "S D"] | None = None
    train_features: Float[Tensor, "R D"] | None = None
    target_features: Float[Tensor, "T D"] | None = None
    texts: Float[Tensor, "P D"] | None = None


@dataclass(frozen=True, kw_only=True)
class Validator:
    """A score with what it needs of the evidence."""

    about: str
    needs: tuple[str, ...]
    of: Callable[[Evidence], float]


def validator(name: str) -> Validator:
    """The validator of this name.

    ConfigError for whatever lies under `oracle/` (made of target labels or pairs, which may not choose), and with the
    nearest name for one that does not exist.
    """
    if name == ORACLE or name.startswith(f"{ORACLE}/"):
        raise ConfigError(
            f"{name!r} is computed from labels or pairs of the target and may not choose anything; "
            f"use a label-free validator: {', '.join(VALIDATORS)}"
        )
    if name not in VALIDATORS:
        raise ConfigError(f"no validator {name!r}; {nearest(name, VALIDATORS)}")
    return VALIDATORS[name]


def score(name: str, evidence: Evidence) -> float:
    """What this validator says; ConfigError where the evidence lacks something that it needs."""
    chosen = validator(name)
    lacking = [need for need in chosen.needs if getattr(evidence, need) is None]
    if lacking:
        raise ConfigError(f"validator {name!r} needs {', '.join(lacking)}, which were not measured")
    return chosen.of(evidence)


def scores(evidence: Evidence) -> dict[str, float]:
    """Every validator that the evidence suffices for."""
    there = {n: v for n, v in VALIDATORS.items() if all(getattr(evidence, need) is not None for need in v.needs)}
    return {name: found.of(evidence) for name, found in there.items()}


def bank_scores(embeddings: Float[Tensor, "N D"], bank: Float[Tensor, "K D"]) -> Float[Tensor, "N K"]:
    """Class scores of unit rows over a bank of unit rows at the fixed temperature."""
    return embeddings @ bank.T / TEMPERATURE


def entropy(logits: Float[Tensor, "T K"]) -> float:
    """Minus the mean entropy of a prediction over ln K: -1 unsure, 0 sure."""
    log = logits.double().log_softmax(1)
    return float((log.exp() * log).sum(1).mean()) / _log(logits.shape[1])


def information(logits: Float[Tensor, "T K"]) -> float:
    """The mutual information of row and prediction over ln K, in [0, 1]: sure rows, all classes (SHOT, 2020, eq. 3)."""
    mean = logits.double().softmax(1).mean(0)
    return entropy(logits) - float(torch.xlogy(mean, mean).sum()) / _log(logits.shape[1])


def bnm(logits: Float[Tensor, "T K"]) -> float:
    """The nuclear norm of the predictions beside the largest there can be, in (0, 1] (Cui et al. 2020, eq. 8)."""
    sure = logits.double().softmax(1)
    return float(torch.linalg.matrix_norm(sure, "nuc")) / math.sqrt(min(sure.shape) * len(sure))


def soft_neighbourhood_density(logits: Float[Tensor, "T K"]) -> float:
    """Mean entropy in nats of a row's similarity to all others (Saito et al. 2021, eq. 1 to 3).

    Dense clusters score high. Of predictions as unit rows, at temperature 0.05; in [0, ln(T - 1)].
    """
    rows = torch.nn.functional.normalize(logits.double().softmax(1), dim=1)
    similar = (rows @ rows.T / SHARP).fill_diagonal_(-torch.inf)
    log = similar.log_softmax(1)
    return -float((log.exp() * log.fill_diagonal_(0)).sum(1).mean())


def source_accuracy(logits: Float[Tensor, "S K"], label: Int64[Tensor, "S"]) -> float:
    """Share of held-out source rows whose class is told rightly."""
    return float((logits.argmax(1) == label).double().mean())


def mutual_nearest_rate(u: Float[Tensor, "T D"], v: Float[Tensor, "P D"]) -> float:
    """Share of the rows of the smaller side that are mutual nearest neighbours with one of the other, in [0, 1]."""
    return len(mutual_nearest(u, v)) / max(1, min(len(u), len(v)))


def embedded_validation(
    risk: Float[Tensor, "S"],
    source: Float[Tensor, "S D"],
    train: Float[Tensor, "R D"],
    target: Float[Tensor, "T D"],
) -> float:
    """Minus the target risk estimated on the source, its rows weighted to look like the target, weights of mean 1.

    `risk` is each held-out source row's loss. Its weight, the density of the target over that of the source at its
    features, is by a logistic regression that tells `train` from `target`: deep embedded validation (You et al. 2019,
    algorithm 1) as normalised by Musgrave et al. (2022), whose control variate is then 0. Where the domains separate
    perfectly a few rows carry all the weight, and the estimate says little.
    """
    both, domain = np.concatenate([_array(train), _array(target)]), np.repeat([0, 1], [len(train), len(target)])
    scaler = StandardScaler().fit(both)
    told = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(both), domain)
    odds = told.decision_function(scaler.transform(_array(source)))
    weight = np.exp(odds - odds.max())
    return -float((weight * _array(risk)).sum() / weight.sum())


def _dev(evidence: Evidence) -> float:
    assert evidence.source is not None and evidence.source_label is not None
    risk = torch.nn.functional.cross_entropy(evidence.source.double(), evidence.source_label, reduction="none")
    features = (evidence.source_features, evidence.train_features, evidence.target_features)
    assert all(rows is not None for rows in features)
    return embedded_validation(risk, *features)  # type: ignore[arg-type]


def _log(kinds: int) -> float:
    return math.log(kinds) if kinds > 1 else 1.0


def _array(rows: Tensor) -> np.ndarray:
    return rows.detach().double().cpu().numpy()


VALIDATORS: Mapping[str, Validator] = {
    "source_accuracy": Validator(
        about="accuracy on held-out source rows",
        needs=("source", "source_label"),
        of=lambda e: source_accuracy(e.source, e.source_label),  # type: ignore[arg-type]
    ),
    "entropy": Validator(
        about="sure predictions on the target",
        needs=("target",),
        of=lambda e: entropy(e.target),  # type: ignore[arg-type]
    ),
    "information": Validator(
        about="sure predictions of all classes",
        needs=("target",),
        of=lambda e: information(e.target),  # type: ignore[arg-type]
    ),
    "bnm": Validator(
        about="the nuclear norm of the predictions",
        needs=("target",),
        of=lambda e: bnm(e.target),  # type: ignore[arg-type]
    ),
    "snd": Validator(
        about="dense soft neighbourhoods",
        needs=("target",),
        of=lambda e: soft_neighbourhood_density(e.target),  # type: ignore[arg-type]
    ),
    "dev": Validator(
        about="the source's risk where it looks like the target",
        needs=("source", "source_label", "source_features", "train_features", "target_features"),
        of=_dev,
    ),
    "mutual_nearest": Validator(
        about="images and texts that are each other's nearest",
        needs=("target_features", "texts"),
        of=lambda e: mutual_nearest_rate(e.target_features, e.texts),  # type: ignore[arg-type]
    ),
}
