"""Choice of a model among candidates (strengths, checkpoints) without target labels: guards first, then a validator.

Scores on predictions alone may be best for a model that has collapsed (it has forgotten the source, all rows look
alike, or the critic never worked), so guards reject such candidates first. Regret and rank correlation compare with the
oracle afterwards; they explain a choice and never make one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from xmodal.errors import ConfigError, nearest
from xmodal.metrics.validators import get_validator


@dataclass(frozen=True, kw_only=True)
class ModelHealth:
    """The measurements that the guards check. `source` is the score on held-out source rows (accuracy, R@1).

    `effective_rank` and `mean_cosine` are those of the target's embeddings. `reversed_norm` and `critic_accuracy` are
    series over training, empty without a critic: the norm of the reversed gradient at the encoder, and a share.
    """

    source: float
    effective_rank: float
    mean_cosine: float
    reversed_norm: Sequence[float] = ()
    critic_accuracy: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class GuardThresholds:
    """How far a candidate may deviate from the baseline (strength 0) before it is rejected."""

    max_source_drop: float = 0.1  # relative to the baseline's score
    min_rank_share: float = 0.3  # of the baseline's effective rank
    max_mean_cosine: float = 0.95  # over all pairs; the baseline's, if that is higher
    min_reversed_norm: float = 1e-8  # below, the critic gives no gradient
    max_critic_accuracy: float = 0.995  # of the worst step: the critic always wins


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model: its name, label-free scores by the validators' names, and its health."""

    name: str
    scores: Mapping[str, float]
    health: ModelHealth


@dataclass(frozen=True, kw_only=True)
class SelectedModel:
    """The chosen candidate, and why others were rejected."""

    name: str
    by: str
    score: float
    rejected: Mapping[str, Sequence[str]] = field(default_factory=dict)


def select(
    candidates: Sequence[Candidate], by: str, *, baseline: str, thresholds: GuardThresholds | None = None
) -> SelectedModel:
    """Return the admitted candidate with the highest score of validator `by`, the first of equal ones.

    `baseline` names the candidate that was not adapted; it is always admitted, so there is always a choice. ConfigError
    for an unknown or `oracle/` validator, an unknown baseline, and a candidate without a finite score.
    """
    get_validator(by)
    by_name = {candidate.name: candidate for candidate in candidates}
    if baseline not in by_name:
        raise ConfigError(f"no candidate {baseline!r} to compare with; {nearest(baseline, by_name)}")
    for candidate in candidates:
        if not np.isfinite(candidate.scores.get(by, np.nan)):
            raise ConfigError(
                f"candidate {candidate.name!r} has no finite {by!r}: measure it for all, or choose another"
            )
    baseline_health = by_name[baseline].health
    reasons = {
        candidate.name: violations(candidate.health, baseline_health, thresholds or GuardThresholds())
        for candidate in candidates
        if candidate.name != baseline
    }
    admitted = [candidate for candidate in candidates if not reasons.get(candidate.name)]
    best = max(admitted, key=lambda candidate: candidate.scores[by])
    rejected = {name: reason for name, reason in reasons.items() if reason}
    return SelectedModel(name=best.name, by=by, score=best.scores[by], rejected=rejected)


def violations(health: ModelHealth, baseline: ModelHealth, thresholds: GuardThresholds) -> list[str]:
    """Return the guards that a candidate violates, as reasons for its rejection; empty if it is admitted."""
    reasons = []
    if not health.source >= (1 - thresholds.max_source_drop) * baseline.source:
        reasons.append(f"source score {health.source:.3g} against {baseline.source:.3g} of the baseline")
    if not health.effective_rank >= thresholds.min_rank_share * baseline.effective_rank:
        reasons.append(f"collapsed: effective rank {health.effective_rank:.3g} against {baseline.effective_rank:.3g}")
    if not health.mean_cosine <= max(thresholds.max_mean_cosine, baseline.mean_cosine):
        reasons.append(f"collapsed: mean cosine {health.mean_cosine:.3g}")
    if len(health.reversed_norm) and not max(health.reversed_norm) > thresholds.min_reversed_norm:
        reasons.append("dead critic: its gradient at the encoder is zero")
    if len(health.critic_accuracy) and min(health.critic_accuracy) > thresholds.max_critic_accuracy:
        reasons.append("the critic separated the domains at every step")
    return reasons


def regret(oracle: Mapping[str, float], chosen: str) -> float:
    """Return the best candidate's oracle score minus the chosen one's, >= 0; ConfigError for an unknown name.

    >>> regret({"plain": 0.5, "adapted": 0.75}, "plain")
    0.25
    """
    if chosen not in oracle:
        raise ConfigError(f"candidate {chosen!r} has no oracle score; {nearest(chosen, oracle)}")
    return max(oracle.values()) - oracle[chosen]


def weighted_spearman(
    score: Sequence[float] | np.ndarray, oracle: Sequence[float] | np.ndarray, *, power: float = 2.0
) -> float:
    """Return the rank correlation in [-1, 1] of a validator with the oracle, weighted towards the top candidates.

    Weights are the larger of both dense ranks (1 for the best) to the `power` (Musgrave et al. 2022): errors at the top
    of either ranking cost most. Scores that are not finite count as the least. NaN for fewer than two candidates, or if
    all are equal.
    """
    if len(score) != len(oracle):
        raise ValueError(f"{len(score)} scores for {len(oracle)} candidates")
    if len(score) < 2 or not np.isfinite(score).any():
        return float("nan")
    scores = np.asarray(score, float)
    scores = np.where(np.isfinite(scores), scores, scores[np.isfinite(scores)].min())
    targets = np.asarray(oracle, float)
    dense_ranks = [rankdata(x, method="dense") / len(np.unique(x)) for x in (scores, targets)]
    weight = np.maximum(*dense_ranks) ** power
    ranks = np.stack([rankdata(scores), rankdata(targets)])
    centred = ranks - (ranks * weight).sum(1, keepdims=True) / weight.sum()
    (score_variance, covariance), (_, target_variance) = (centred * weight) @ centred.T
    return (
        float(covariance / np.sqrt(score_variance * target_variance))
        if score_variance > 0 and target_variance > 0
        else float("nan")
    )


def effective_rank(rows: Float[Tensor, "N D"]) -> float:
    """Return exp of the entropy of the variances' shares (Roy & Vetterli 2007 on the covariance), in [1, D].

    0 if all rows are equal.

    >>> round(effective_rank(torch.eye(3)), 2)
    2.0
    """
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(0)).square()
    if not values.sum() > 0:
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def mean_cosine(rows: Float[Tensor, "N D"]) -> float:
    """Return the mean cosine over all pairs of different rows, in [-1, 1]; NaN for fewer than two rows.

    >>> mean_cosine(torch.eye(3))
    0.0
    """
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    count = len(unit)
    if count < 2:
        return float("nan")
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))
