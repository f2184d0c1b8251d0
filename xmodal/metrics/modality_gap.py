"""The modality gap: the distance between the embeddings of two modalities, split into means and covariances.

N: rows of the first modality.  M: rows of the second.  D: width. The rows need not be pairs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class ModalityGap:
    """The Fréchet distance between two sets of embeddings in two parts: its square is `centroid`² + `distribution`².

    `centroid` is the distance of the means (Liang et al. 2022), in [0, 2] for unit rows; `distribution` that of the
    covariances (Bures), which remains when the means are moved onto each other.
    """

    centroid: float
    distribution: float


def modality_gap(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "M D"]) -> ModalityGap:
    """Compute both parts of the gap. Report it, but do not train on it: closing it hardly helps retrieval.

    >>> rows = np.random.default_rng(0).normal(size=(100, 4))
    >>> round(modality_gap(rows, rows + [3, 4, 0, 0]).centroid, 6)
    5.0
    """
    u, v = first.astype(np.float64), second.astype(np.float64)
    covariance_u, covariance_v = _covariance(u), _covariance(v)
    root = _root(covariance_u)
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariance_v @ root), 0, None)).sum()
    squared = max(0.0, float(np.trace(covariance_u) + np.trace(covariance_v) - 2 * overlap))
    return ModalityGap(centroid=float(np.linalg.norm(u.mean(0) - v.mean(0))), distribution=squared**0.5)


def _covariance(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    covariance: np.ndarray = centred.T @ centred / len(rows)
    return covariance


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    root: np.ndarray = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
