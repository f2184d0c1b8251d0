"""Embeddings of pairs -> searches both ways, by the names that their figures have: `image_to_text`, `text_to_image`."""

import numpy as np
import torch

from pipelines.inference.encode import Encoded
from xmodal.metrics.positive_pairs import Ids
from xmodal.metrics.retrieval import Retrieval, retrieve_both_ways


def search(found: Encoded) -> dict[str, Retrieval]:
    """Every vector of one modality is searched in all of the other.

    A picture is found by any of its captions, and finds any; equal captions are right answers of each other. A clip's
    pictures and its sound belong to each other alone.
    """
    first, second = found.vectors
    ids, others = Ids(np.arange(len(found.row)), found.row), Ids(np.arange(len(found.row)), found.row)
    if second == "text":
        ids, others = Ids(found.owner, found.text_id), Ids(np.arange(len(found.text_id)), found.text_id)
    one, other = (torch.from_numpy(found.vectors[name]) for name in (first, second))
    forth, back = retrieve_both_ways(one, other, ids, others)
    return {f"{first}_to_{second}": forth, f"{second}_to_{first}": back}
