"""Statistics of the embedding space of one model over held-out pairs.

Similarity matrix, projection to two dimensions, cosines of matching and other pairs, and the modality gap.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from xmodal.metrics.modality_gap import modality_gap
from xmodal.report.held_out_pairs import PairEmbeddings

MATRIX_PAIRS = 48
PROJECTED_PAIRS = 240  # pairs drawn in the projection: more would be a cloud without structure, in a heavier page
BINS = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSpace:
    """Statistics of one model's embeddings; cosines lie in [-1, 1].

    `matrix` holds cosines of M pairs, ordered by the first principal component of their texts; the diagonal holds
    matching pairs. `explained` is the share of the variance along each axis of the projection. `gap` is the distance
    between the mean image embedding and the mean text embedding (Liang et al. 2022), in [0, 2].
    """

    matrix: Float[np.ndarray, "M M"]  # rows are texts, columns images
    image_points: Float[np.ndarray, "S 2"]
    text_points: Float[np.ndarray, "S 2"]
    explained: tuple[float, float]
    edges: Float[np.ndarray, "b1"]
    matching: Float[np.ndarray, "b"]  # share of the matching pairs in each bin of cosines
    other: Float[np.ndarray, "b"]  # share of the pairs that do not match
    mean_matching: float
    mean_other: float
    gap: float


def embedding_space(embeddings: PairEmbeddings, ids: Int64[Tensor, "P"]) -> EmbeddingSpace:
    """Compute the statistics over all pairs; matrix and projection contain evenly chosen pairs.

    `ids` are those of ReportPairs: texts and images of equal ids match.
    """
    image, text = embeddings.image.double(), embeddings.text.double()
    cosines = text @ image.T
    same = ids[:, None] == ids[None, :]
    matching, other = cosines.diagonal(), cosines[~same]
    edges = np.linspace(float(cosines.min()), float(cosines.max()) + 1e-9, BINS + 1)
    matrix_pairs = _evenly_spaced(len(ids), MATRIX_PAIRS)
    order = matrix_pairs[torch.argsort(_principal_plane(text[matrix_pairs])[0][:, 0])]
    points, explained = _principal_plane(torch.cat([image, text]))
    projected = _evenly_spaced(len(ids), PROJECTED_PAIRS)
    return EmbeddingSpace(
        matrix=cosines[order][:, order].numpy(),
        image_points=points[projected].numpy(),
        text_points=points[projected + len(ids)].numpy(),
        explained=explained,
        edges=edges,
        matching=_bin_shares(matching, edges),
        other=_bin_shares(other, edges),
        mean_matching=float(matching.mean()),
        mean_other=float(other.mean()) if len(other) else float("nan"),
        gap=modality_gap(image.numpy(), text.numpy()).centroid,
    )


def _principal_plane(rows: Float[Tensor, "R D"]) -> tuple[Float[Tensor, "R 2"], tuple[float, float]]:
    """Return the first two principal components of the rows, and each one's share of the variance.

    A second component that does not exist is zero.
    """
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance)
    top = vectors[:, -2:].flip(1)
    sign = torch.sign(top.gather(0, top.abs().argmax(0, keepdim=True)))  # the sign of an eigenvector is arbitrary
    points = centred @ (top * sign)
    if points.shape[1] < 2:
        points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
    total = float(values.clamp(min=0).sum()) or 1.0
    shares = [float(value) / total for value in values.flip(0)[:2].clamp(min=0)] + [0.0]
    return points, (shares[0], shares[1])


def _evenly_spaced(total: int, max_count: int) -> Int64[Tensor, "n"]:
    return torch.linspace(0, total - 1, min(total, max_count)).round().long()


def _bin_shares(cosines: Float[Tensor, "n"], edges: Float[np.ndarray, "b1"]) -> Float64[np.ndarray, "b"]:
    counts, _ = np.histogram(cosines.numpy(), bins=edges)
    return counts / max(1, len(cosines))
