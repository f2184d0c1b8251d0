"""What a model makes of held-out rows in; scores, health, distances and pictures of the domains out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from xmodal.metrics.domain_gap import mmd_band, neighbour_mixing, proxy_a_distance
from xmodal.metrics.model_selection import effective_rank, mean_cosine
from xmodal.metrics.projection import project
from xmodal.metrics.validators import Evidence, scores

PROBED, DRAWN = 600, 150  # rows of each domain


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Features [N, D] and class scores [N, K] of some rows."""

    features: Tensor
    scores: Tensor


def judged(
    source: Seen, label: Tensor, target: Seen, train: Seen, series: Sequence[dict[str, float]], **more: Any
) -> dict[str, Any]:
    """`scores` of all validators that can be had, and `health`; `more` is further evidence. No label of the target."""
    evidence = Evidence(
        target=target.scores,
        source=source.scores,
        source_label=label,
        source_features=source.features,
        train_features=train.features,
        target_features=target.features,
        **more,
    )
    found = scores(evidence)
    health = {
        "source": found["source_accuracy"],
        "effective_rank": effective_rank(target.features),
        "mean_cosine": mean_cosine(target.features),
        "reversed_norm": max((one["domain_norm"] for one in series if "critic_accuracy" in one), default=None),
        "critic_accuracy": min((one["critic_accuracy"] for one in series if "critic_accuracy" in one), default=None),
    }
    return {"scores": found, "health": health}


def distances(source: np.ndarray, target: np.ndarray, *, seed: int) -> dict[str, Any]:
    """How far held-out features of the domains are apart, each figure with what it is without a shift."""
    return {
        "linear": asdict(proxy_a_distance(source, target, seed=seed, rows=PROBED, shuffles=4)),
        "mlp": asdict(proxy_a_distance(source, target, seed=seed, probe="mlp", rows=PROBED, shuffles=2)),
        "mmd": asdict(mmd_band(source, target, seed=seed, rows=PROBED)),
        "mixing": neighbour_mixing(source, target, seed=seed, rows=PROBED),
    }


def projections(
    source: np.ndarray, target: np.ndarray, source_class: np.ndarray, target_class: np.ndarray
) -> dict[str, Any]:
    """The first rows of both domains in a plane, twice, with their classes."""
    found: dict[str, Any] = {
        "source_class": source_class[:DRAWN].tolist(),
        "target_class": target_class[:DRAWN].tolist(),
    }
    for method in ("pca", "tsne"):
        places = project(source[:DRAWN], target[:DRAWN], method, seed=0)
        found[method] = {name: np.round(p, 3).tolist() for name, p in zip(("source", "target"), places, strict=True)}
    return found
