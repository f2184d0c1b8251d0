"""Embeddings of both modalities of one domain in, the gap between the modalities in two parts out.

N: rows of the first modality.  M: of the second.  D: width. The rows need not be pairs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class ModalityGap:
    """The Fréchet distance between both clouds, taken apart: its square is `centroid`² + `distribution`².

    `centroid` is the distance of the means (Liang et al. 2022), in [0, 2] for unit rows; `distribution` that of the
    covariances (Bures), which is left when the means are laid on one another.
    """

    centroid: float
    distribution: float

    @property
    def frechet(self) -> float:
        return float(np.hypot(self.centroid, self.distribution))


def modality_gap(first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "M D"]) -> ModalityGap:
    """Both parts of the gap; log it, never optimise it: closing it hardly helps retrieval."""
    u, v = first.astype(np.float64), second.astype(np.float64)
    of_u, of_v = _covariance(u), _covariance(v)
    root = _root(of_u)
    common = np.sqrt(np.clip(np.linalg.eigvalsh(root @ of_v @ root), 0, None)).sum()
    apart = max(0.0, float(np.trace(of_u) + np.trace(of_v) - 2 * common))
    return ModalityGap(centroid=float(np.linalg.norm(u.mean(0) - v.mean(0))), distribution=apart**0.5)


def _covariance(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
