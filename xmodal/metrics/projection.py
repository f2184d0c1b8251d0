"""Projection of the features of two domains onto a plane, for a plot coloured by domain and by class.

A plot proves nothing: t-SNE looks mixed although accuracy has not moved. Show it with the distances of `domain_gap`.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from xmodal.errors import CorpusError

ProjectionMethod = Literal["pca", "tsne"]
MIN_ROWS = 4  # rows of both domains together


def project(
    source: Float[np.ndarray, "S D"],
    target: Float[np.ndarray, "T D"],
    method: ProjectionMethod = "pca",
    *,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "S 2"], Float[np.ndarray, "T 2"]]:
    """Project both domains onto their first two principal components, or by t-SNE (perplexity 30 at most).

    Fitted on both together; t-SNE of 1,000 rows takes some seconds. CorpusError for fewer than four rows.
    """
    both = np.concatenate([source, target]).astype(np.float64)
    if len(both) < MIN_ROWS:
        raise CorpusError(f"{len(both)} rows are too few to project: give at least {MIN_ROWS}")
    if method == "pca":
        points = PCA(2, random_state=seed).fit_transform(both)
    else:
        perplexity = min(30.0, (len(both) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(both)
    return points[: len(source)], points[len(source) :]
