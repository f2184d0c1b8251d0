"""Candidates (strengths, checkpoints) with their label-free scores in, the one that is chosen, and what it cost, out.

Guards come first: scores on predictions alone may be best for a model that has collapsed (knowledge of the source is
lost, all rows look alike, or the critic never worked). Regret and rank correlation compare with the oracle afterwards;
they explain a choice and never make one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from xmodal.errors import ConfigError, nearest
from xmodal.metrics.validators import validator


@dataclass(frozen=True, kw_only=True)
class Health:
    """What the guards look at. `source` is the score on held-out source rows (accuracy, R@1).

    `effective_rank` and `mean_cosine` are those of the target's embeddings. `reversed_norm` and `critic_accuracy` are
    series over training, empty without a critic: the norm of the reversed gradient at the encoder, and a share.
    """

    source: float
    effective_rank: float
    mean_cosine: float
    reversed_norm: Sequence[float] = ()
    critic_accuracy: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a candidate may be from the baseline (strength 0) before it is rejected."""

    source_drop: float = 0.1  # of the baseline's score, relative
    rank_left: float = 0.3  # of the baseline's effective rank
    cosine: float = 0.95  # mean of all pairs, unless the baseline's is as high
    dead: float = 1e-8  # reversed gradients below this are none
    perfect: float = 0.995  # accuracy of a critic that has won throughout


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model: its name, label-free scores by the validators' names, and its health."""

    name: str
    scores: Mapping[str, float]
    health: Health


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The chosen candidate, and why others were not admitted."""

    name: str
    by: str
    score: float
    rejected: Mapping[str, Sequence[str]] = field(default_factory=dict)


def select(candidates: Sequence[Candidate], by: str, *, baseline: str, limits: Limits | None = None) -> Selected:
    """The admitted candidate with the highest score of validator `by`, the first among equals; never an oracle's.

    `baseline` names the candidate that was not adapted; it is always admitted, so there is always a choice. ConfigError
    for an unknown or `oracle/` validator, a baseline that is not there, and a candidate without a finite score.
    """
    validator(by)
    named = {one.name: one for one in candidates}
    if baseline not in named:
        raise ConfigError(f"no candidate {baseline!r} to compare with; {nearest(baseline, named)}")
    for one in candidates:
        if not np.isfinite(one.scores.get(by, np.nan)):
            raise ConfigError(f"candidate {one.name!r} has no finite {by!r}: measure it for all, or choose another")
    own = named[baseline].health
    found = {one.name: complaints(one.health, own, limits or Limits()) for one in candidates if one.name != baseline}
    admitted = [one for one in candidates if not found.get(one.name)]
    best = max(admitted, key=lambda one: one.scores[by])
    rejected = {name: why for name, why in found.items() if why}
    return Selected(name=best.name, by=by, score=best.scores[by], rejected=rejected)


def complaints(health: Health, baseline: Health, limits: Limits) -> list[str]:
    """Why a candidate is not admitted; empty where it is."""
    why = []
    if not health.source >= (1 - limits.source_drop) * baseline.source:
        why.append(f"source score {health.source:.3g} against {baseline.source:.3g} of the baseline")
    if not health.effective_rank >= limits.rank_left * baseline.effective_rank:
        why.append(f"collapsed: effective rank {health.effective_rank:.3g} against {baseline.effective_rank:.3g}")
    if not health.mean_cosine <= max(limits.cosine, baseline.mean_cosine):
        why.append(f"collapsed: mean cosine {health.mean_cosine:.3g}")
    if len(health.reversed_norm) and not max(health.reversed_norm) > limits.dead:
        why.append("dead critic: no gradient came back from it")
    if len(health.critic_accuracy) and min(health.critic_accuracy) > limits.perfect:
        why.append("the critic told the domains apart throughout")
    return why


def regret(oracle: Mapping[str, float], chosen: str) -> float:
    """The best candidate's oracle score minus the chosen one's, >= 0; ConfigError for a name that is not there."""
    if chosen not in oracle:
        raise ConfigError(f"no candidate {chosen!r} was judged; {nearest(chosen, oracle)}")
    return max(oracle.values()) - oracle[chosen]


def weighted_spearman(
    score: Sequence[float] | np.ndarray, oracle: Sequence[float] | np.ndarray, *, power: float = 2.0
) -> float:
    """Rank correlation in [-1, 1] of a validator with the oracle over candidates, those that either ranks high first.

    Weights are the larger of both dense ranks (1 for the best) to the `power` (Musgrave et al. 2022): a validator that
    is wrong about what it puts on top, or about the best, pays most. Scores that are not finite count as the least.
    NaN for fewer than two candidates, or where all are equal.
    """
    if len(score) != len(oracle):
        raise ValueError(f"{len(score)} scores for {len(oracle)} candidates")
    if len(score) < 2 or not np.isfinite(score).any():
        return float("nan")
    given = np.asarray(score, float)
    given = np.where(np.isfinite(given), given, given[np.isfinite(given)].min())
    wanted = np.asarray(oracle, float)
    dense = [rankdata(x, method="dense") / len(np.unique(x)) for x in (given, wanted)]
    weight = np.maximum(*dense) ** power
    ranks = np.stack([rankdata(given), rankdata(wanted)])
    centred = ranks - (ranks * weight).sum(1, keepdims=True) / weight.sum()
    (own, both), (_, other) = (centred * weight) @ centred.T
    return float(both / np.sqrt(own * other)) if own > 0 and other > 0 else float("nan")


def effective_rank(rows: Float[Tensor, "N D"]) -> float:
    """exp of the entropy of the variances' shares (Roy & Vetterli 2007 on the covariance), in [1, D]; 0: all equal."""
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(0)).square()
    if not values.sum() > 0:
        return 0.0
    share = values / values.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def mean_cosine(rows: Float[Tensor, "N D"]) -> float:
    """Over all pairs of different rows, in [-1, 1]; NaN for fewer than two."""
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    count = len(unit)
    if count < 2:
        return float("nan")
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))
