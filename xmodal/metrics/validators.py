"""Label-free validators: scores of a model on an unlabelled target by which it may be chosen; higher is better.

S: held-out source rows.  R: source rows trained on.  T: held-out target rows, unlabelled.  K, J: classes, or captions
of a bank (of the target, of the source).  D: width.

None of them knows whether a prediction is right. Those on predictions (`entropy`, `information`, `bnm`, `snd`) can
prefer a collapsed model, so `xmodal.metrics.model_selection` rejects such candidates first. Make predictions at one
temperature for all candidates: a trained one would win by growing sharp.
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
from xmodal.losses.prediction_losses import nuclear_norm
from xmodal.losses.pseudo_pairs import mutual_nearest_neighbours

TEMPERATURE = 0.07  # of cosines with a bank: CLIP's initial temperature
SND_TEMPERATURE = 0.05  # as published
ORACLE = "oracle"


@dataclass(frozen=True, kw_only=True)
class ValidatorInputs:
    """Everything that a validator may use; validators that need a field that is None cannot be computed.

    `target` and `source` are class scores before the softmax (over a bank: `bank_scores`); features are what the scores
    are made of; `texts` are unit embeddings to pair with `target_features`, which then are unit rows, too.
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
    """A score of a model: a function of the inputs that it requires, in their order."""

    required: tuple[str, ...]
    compute: Callable[..., float]


def get_validator(name: str) -> Validator:
    """Return the validator of this name.

    ConfigError for every name under `oracle/` (computed from target labels or pairs, which must not choose), and with
    the nearest name for an unknown one.
    """
    if name == ORACLE or name.startswith(f"{ORACLE}/"):
        raise ConfigError(
            f"{name!r} is computed from labels or pairs of the target and may not choose anything; "
            f"use a label-free validator: {', '.join(VALIDATORS)}"
        )
    if name not in VALIDATORS:
        raise ConfigError(f"no validator {name!r}; {nearest(name, VALIDATORS)}")
    return VALIDATORS[name]


def compute_score(name: str, inputs: ValidatorInputs) -> float:
    """Compute the score of one validator; ConfigError if a required input is missing."""
    validator = get_validator(name)
    missing = [field for field in validator.required if getattr(inputs, field) is None]
    if missing:
        raise ConfigError(f"validator {name!r} needs {', '.join(missing)}, which are missing")
    return validator.compute(*(getattr(inputs, field) for field in validator.required))


def compute_scores(inputs: ValidatorInputs) -> dict[str, float]:
    """Compute the scores of all validators whose required inputs are present.

    >>> sorted(compute_scores(ValidatorInputs(target=torch.zeros(4, 2))))
    ['bnm', 'entropy', 'information', 'snd']
    """
    available = (n for n, v in VALIDATORS.items() if all(getattr(inputs, field) is not None for field in v.required))
    return {name: compute_score(name, inputs) for name in available}


def bank_scores(embeddings: Float[Tensor, "N D"], bank: Float[Tensor, "K D"]) -> Float[Tensor, "N K"]:
    """Return class scores of unit rows over a bank of unit rows at the fixed temperature."""
    return embeddings @ bank.T / TEMPERATURE


def entropy_score(logits: Float[Tensor, "T K"]) -> float:
    """Return minus the mean entropy of the predictions over ln K: -1 if uniform, 0 if confident."""
    log = logits.double().log_softmax(1)
    return float((log.exp() * log).sum(1).mean()) / _log_or_one(logits.shape[1])


def information_score(logits: Float[Tensor, "T K"]) -> float:
    """Return the mutual information of row and prediction over ln K, in [0, 1] (SHOT, 2020, eq. 3).

    It is high for confident rows of all classes.
    """
    mean = logits.double().softmax(1).mean(0)
    return entropy_score(logits) - float(torch.xlogy(mean, mean).sum()) / _log_or_one(logits.shape[1])


def nuclear_norm_score(logits: Float[Tensor, "T K"]) -> float:
    """Return the nuclear norm of the predictions relative to its maximum, in (0, 1] (Cui et al. 2020, eq. 8)."""
    return float(nuclear_norm(logits.double())) / math.sqrt(min(logits.shape) * len(logits))


def soft_neighbourhood_density(logits: Float[Tensor, "T K"]) -> float:
    """Return the mean entropy in nats of a row's similarity to all others (Saito et al. 2021, eq. 1 to 3).

    Dense clusters score high. Computed on predictions as unit rows, at temperature 0.05; in [0, ln(T - 1)].
    """
    rows = torch.nn.functional.normalize(logits.double().softmax(1), dim=1)
    similar = (rows @ rows.T / SND_TEMPERATURE).fill_diagonal_(-torch.inf)
    log = similar.log_softmax(1)
    return -float((log.exp() * log.fill_diagonal_(0)).sum(1).mean())


def source_accuracy(logits: Float[Tensor, "S K"], label: Int64[Tensor, "S"]) -> float:
    """Return the share of held-out source rows that are classified correctly."""
    return float((logits.argmax(1) == label).double().mean())


def mutual_nearest_rate(u: Float[Tensor, "T D"], v: Float[Tensor, "P D"]) -> float:
    """Return the share of the smaller side's rows that have a mutual nearest neighbour on the other, in [0, 1]."""
    return len(mutual_nearest_neighbours(u, v)) / max(1, min(len(u), len(v)))


def embedded_validation(
    risk: Float[Tensor, "S"],
    source: Float[Tensor, "S D"],
    train: Float[Tensor, "R D"],
    target: Float[Tensor, "T D"],
) -> float:
    """Return minus the target risk, estimated on source rows weighted by how much they look like the target.

    `risk` is each held-out source row's loss. Its weight, the density of the target over that of the source at its
    features, comes from a logistic regression that separates `train` from `target`; weights have mean 1. This is deep
    embedded validation (You et al. 2019, algorithm 1) as normalised by Musgrave et al. (2022), whose control variate is
    then 0. If the domains separate perfectly, a few rows carry all the weight and the estimate says little.
    """
    both, domain = np.concatenate([_array(train), _array(target)]), np.repeat([0, 1], [len(train), len(target)])
    scaler = StandardScaler().fit(both)
    classifier = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(both), domain)
    odds = classifier.decision_function(scaler.transform(_array(source)))
    weight = np.exp(odds - odds.max())
    return -float((weight * _array(risk)).sum() / weight.sum())


def _dev(
    source: Float[Tensor, "S J"],
    source_label: Int64[Tensor, "S"],
    source_features: Float[Tensor, "S D"],
    train_features: Float[Tensor, "R D"],
    target_features: Float[Tensor, "T D"],
) -> float:
    """Return `embedded_validation` with the cross-entropy of the source as risk."""
    risk = torch.nn.functional.cross_entropy(source.double(), source_label, reduction="none")
    return embedded_validation(risk, source_features, train_features, target_features)


def _log_or_one(classes: int) -> float:
    """Return ln of the number of classes, 1 for a single class."""
    return math.log(classes) if classes > 1 else 1.0


def _array(rows: Tensor) -> np.ndarray:
    return rows.detach().double().cpu().numpy()


VALIDATORS: Mapping[str, Validator] = {
    "source_accuracy": Validator(required=("source", "source_label"), compute=source_accuracy),
    "entropy": Validator(required=("target",), compute=entropy_score),
    "information": Validator(required=("target",), compute=information_score),
    "bnm": Validator(required=("target",), compute=nuclear_norm_score),
    "snd": Validator(required=("target",), compute=soft_neighbourhood_density),
    "dev": Validator(
        required=("source", "source_label", "source_features", "train_features", "target_features"), compute=_dev
    ),
    "mutual_nearest": Validator(required=("target_features", "texts"), compute=mutual_nearest_rate),
}
