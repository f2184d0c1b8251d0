"""Make the two domains of MNIST and an MNIST-M-like set from grey digits and photographs, by the published recipe.

A digit of the target is |binarised digit - a random patch of a photograph|, channel by channel (Ganin & Lempitsky
2015). Differences are taken in 16 bits: in 8 they would wrap around. The source is binarised and has three channels
too, else its grey levels would give the domain away. The photographs are not those of BSDS500, so results are not
comparable with published ones. All patches are drawn from one generator.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jobs.bench.tar_members import sample_members


def read_photographs(uri: str) -> list[np.ndarray]:
    """Return every JPEG image of the shards, uint8 [H, W, 3], in corpus order."""
    return [np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")) for sample in sample_members(uri)]


def binarise(grey: np.ndarray) -> np.ndarray:
    """Return grey digits uint8 [N, S, S] as uint8 [N, S, S, 3] of 0 and 255: the source's look."""
    return np.repeat(_binary_levels(grey)[..., None], 3, axis=3).astype(np.uint8)


def blend(grey: np.ndarray, photos: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return uint8 [N, S, S, 3]: each digit's difference from a random patch of a photograph of its size."""
    side = grey.shape[1]
    out = np.empty((*grey.shape, 3), np.uint8)
    for row, digit in enumerate(_binary_levels(grey)):
        photo = photos[int(rng.integers(len(photos)))]
        top, left = (rng.integers(size - side + 1) for size in photo.shape[:2])
        patch = photo[top : top + side, left : left + side].astype(np.int16)
        out[row] = np.abs(digit[..., None] - patch)
    return out


def _binary_levels(grey: np.ndarray) -> np.ndarray:
    return np.where(grey > 0, 255, 0).astype(np.int16)
