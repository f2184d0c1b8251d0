"""Embedded pairs in; similarity matrix, projection to a plane, cosines of right and wrong pairs, modality gap out."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from xmodal.report.held_out_pairs import Embedded

MATRIX_PAIRS = 48
SHOWN_POINTS = 240  # pairs drawn in the projection: more would be a cloud, and weight
BINS = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """What the space of one model looks like. Cosines lie in [-1, 1].

    `gap` is the distance between the mean of all image vectors and that of all text vectors (Liang et al. 2022);
    two spheres' worth apart is 2, no gap is 0. `explained` is the share of the variance that each axis of the
    projection shows. `matrix` is ordered by the first principal component of its texts, right pairs on the diagonal.
    """

    matrix: Float[np.ndarray, "m m"]  # rows are texts, columns images
    image_points: Float[np.ndarray, "s 2"]
    text_points: Float[np.ndarray, "s 2"]
    explained: tuple[float, float]
    edges: Float[np.ndarray, "b1"]
    right: Float[np.ndarray, "b"]  # share of right pairs in each bin of cosines
    wrong: Float[np.ndarray, "b"]
    mean_right: float
    mean_wrong: float
    gap: float


def space(embedded: Embedded, ids: Int64[Tensor, "P"]) -> Space:
    """Of all pairs; matrix and projection show evenly chosen ones."""
    image, text = embedded.image.double(), embedded.text.double()
    cosines = text @ image.T
    same = ids[:, None] == ids[None, :]
    right, wrong = cosines.diagonal(), cosines[~same]
    edges = np.linspace(float(cosines.min()), float(cosines.max()) + 1e-9, BINS + 1)
    chosen = _evenly(len(ids), MATRIX_PAIRS)
    order = chosen[torch.argsort(_plane(text[chosen])[0][:, 0])]
    points, explained = _plane(torch.cat([image, text]))
    some = _evenly(len(ids), SHOWN_POINTS)
    return Space(
        matrix=cosines[order][:, order].numpy(),
        image_points=points[some].numpy(),
        text_points=points[some + len(ids)].numpy(),
        explained=explained,
        edges=edges,
        right=_shares(right, edges),
        wrong=_shares(wrong, edges),
        mean_right=float(right.mean()),
        mean_wrong=float(wrong.mean()) if len(wrong) else float("nan"),
        gap=float((image.mean(0) - text.mean(0)).norm()),
    )


def _plane(rows: Float[Tensor, "R D"]) -> tuple[Float[Tensor, "R 2"], tuple[float, float]]:
    """Principal components 1 and 2 of the rows, and the share of variance of each; zeros where there is no second."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance)
    top = vectors[:, -2:].flip(1)
    sign = torch.sign(top.gather(0, top.abs().argmax(0, keepdim=True)))  # eigenvectors have no sign of their own
    points = centred @ (top * sign)
    if points.shape[1] < 2:
        points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
    total = float(values.clamp(min=0).sum()) or 1.0
    shares = [float(value) / total for value in values.flip(0)[:2].clamp(min=0)] + [0.0]
    return points, (shares[0], shares[1])


def _evenly(total: int, most: int) -> Int64[Tensor, "n"]:
    return torch.linspace(0, total - 1, min(total, most)).round().long()


def _shares(cosines: Float[Tensor, "n"], edges: np.ndarray) -> Float[np.ndarray, "b"]:
    counts, _ = np.histogram(cosines.numpy(), bins=edges)
    return counts / max(1, len(cosines))
