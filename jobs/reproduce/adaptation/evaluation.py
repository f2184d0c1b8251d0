"""Evaluate a model on held-out rows: validator scores, health, distances and plots of the domains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from xmodal.metrics.domain_gap import mmd_permutation_band, neighbour_mixing, proxy_a_distance
from xmodal.metrics.model_selection import effective_rank, mean_cosine
from xmodal.metrics.projection import project
from xmodal.metrics.validators import ValidatorInputs, compute_scores

PROBE_ROWS, PLOT_ROWS = 600, 150  # rows of each domain for distances, and for plots


@dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """Features [N, D] and class scores [N, K] of some rows."""

    features: Tensor
    scores: Tensor


def score_outputs(
    source: ModelOutputs,
    label: Tensor,
    target: ModelOutputs,
    train: ModelOutputs,
    series: Sequence[dict[str, float]],
    **more: Any,
) -> dict[str, object]:
    """Return `scores` of all validators that the inputs allow, and `health`, without a label of the target.

    `label` are the source's classes, `series` the metrics of all steps so far; `more` are further `ValidatorInputs`.
    """
    evidence = ValidatorInputs(
        target=target.scores,
        source=source.scores,
        source_label=label,
        source_features=source.features,
        train_features=train.features,
        target_features=target.features,
        **more,
    )
    scores = compute_scores(evidence)
    critic_steps = [metrics for metrics in series if "critic_accuracy" in metrics]
    health = {
        "source": scores["source_accuracy"],
        "effective_rank": effective_rank(target.features),
        "mean_cosine": mean_cosine(target.features),
        "reversed_norm": max((metrics["domain_norm"] for metrics in critic_steps), default=None),
        "critic_accuracy": min((metrics["critic_accuracy"] for metrics in critic_steps), default=None),
    }
    return {"scores": scores, "health": health}


def domain_distances(source: np.ndarray, target: np.ndarray, *, seed: int) -> dict[str, object]:
    """Return how far held-out features of the domains are apart, with each distance's value without a shift."""
    return {
        "linear": asdict(proxy_a_distance(source, target, seed=seed, rows=PROBE_ROWS, shuffles=4)),
        "mlp": asdict(proxy_a_distance(source, target, seed=seed, probe="mlp", rows=PROBE_ROWS, shuffles=2)),
        "mmd": asdict(mmd_permutation_band(source, target, seed=seed, rows=PROBE_ROWS)),
        "mixing": neighbour_mixing(source, target, seed=seed, rows=PROBE_ROWS),
    }


def project_domains(
    source: np.ndarray, target: np.ndarray, source_class: np.ndarray, target_class: np.ndarray
) -> dict[str, object]:
    """Return the first rows of both domains as points of a plane, by PCA and t-SNE, with their classes."""
    projection: dict[str, Any] = {
        "source_class": source_class[:PLOT_ROWS].tolist(),
        "target_class": target_class[:PLOT_ROWS].tolist(),
    }
    for method in ("pca", "tsne"):
        domains = zip(
            ("source", "target"), project(source[:PLOT_ROWS], target[:PLOT_ROWS], method, seed=0), strict=True
        )
        projection[method] = {name: np.round(points, 3).tolist() for name, points in domains}
    return projection
