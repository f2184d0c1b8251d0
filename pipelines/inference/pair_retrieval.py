"""Search each modality of pairs in the other one, to measure retrieval."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from pipelines.inference.encode import Embeddings
from xmodal.metrics.positive_pairs import RowIds
from xmodal.metrics.retrieval import RetrievalResult, retrieve_both_ways


def search_both_ways(embeddings: Embeddings) -> dict[str, RetrievalResult]:
    """Search every vector of one modality in all of the other; results by direction, e.g. `image_to_text`.

    Every caption of an image is a correct answer, and equal captions are correct answers of each other. The video and
    the audio of a clip match each other alone.
    """
    first, second = embeddings.vectors
    rows = len(embeddings.row)
    first_ids = second_ids = RowIds(np.arange(rows), embeddings.row)
    if second == "text":
        texts = len(embeddings.text_id)
        first_ids = RowIds(embeddings.owner, embeddings.text_id)
        second_ids = RowIds(np.arange(texts), embeddings.text_id)
    first_vectors, second_vectors = (torch.from_numpy(embeddings.vectors[name]) for name in (first, second))
    forward, backward = retrieve_both_ways(first_vectors, second_vectors, first_ids, second_ids)
    return {f"{first}_to_{second}": forward, f"{second}_to_{first}": backward}


def centre_embeddings(embeddings: Embeddings) -> Embeddings:
    """Subtract from the embeddings of each modality their mean over the corpus, and normalise them again.

    That removes a shift of the domain that is the same for all images, without any training.
    """
    vectors = {name: torch.from_numpy(rows) for name, rows in embeddings.vectors.items()}
    centred = {name: normalize(rows - rows.mean(0), dim=1).numpy() for name, rows in vectors.items()}
    return replace(embeddings, vectors=centred)
