"""Features of two domains in, their places in one plane out, for a picture coloured by domain and by class.

A picture proves nothing: t-SNE looks mixed where accuracy has not moved. Put the numbers of `domain_gap` beside it.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from xmodal.errors import CorpusError

Method = Literal["pca", "tsne"]
LEAST = 4  # rows of both domains together


def project(
    source: Float[np.ndarray, "S D"], target: Float[np.ndarray, "T D"], method: Method = "pca", *, seed: int = 0
) -> tuple[Float[np.ndarray, "S 2"], Float[np.ndarray, "T 2"]]:
    """Both domains in the plane of their first two principal components, or by t-SNE (perplexity 30 at most).

    Fitted on both together; t-SNE of 1,000 rows takes some seconds. CorpusError for fewer than four rows.
    """
    both = np.concatenate([source, target]).astype(np.float64)
    if len(both) < LEAST:
        raise CorpusError(f"{len(both)} rows are too few to project: give at least {LEAST}")
    if method == "pca":
        places = PCA(2, random_state=seed).fit_transform(both)
    else:
        perplexity = min(30.0, (len(both) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(both)
    return places[: len(source)], places[len(source) :]
