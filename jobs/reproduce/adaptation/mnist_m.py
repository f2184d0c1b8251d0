"""Grey digits and photographs in, the two domains of MNIST and an MNIST-M-like set out, by the published recipe.

A digit of the target is |binarised digit - a random patch of a photograph|, channel by channel (Ganin & Lempitsky
2015). Differences are taken in 16 bits: in 8 they would wrap around. The source is binarised and has three channels
too, else its grey levels would give the domain away. Photographs are not BSDS500's, so figures are not the published
ones; which digit meets which patch is drawn from one generator.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jobs.reproduce.tar_members import members


def photographs(uri: str) -> list[np.ndarray]:
    """Every JPEG of the shards, uint8 [H, W, 3], in corpus order."""
    return [np.asarray(Image.open(io.BytesIO(one["jpg"])).convert("RGB")) for one in members(uri)]


def binarised(grey: np.ndarray) -> np.ndarray:
    """uint8 [N, S, S] to uint8 [N, S, S, 3] of 0 and 255: the source's look."""
    return np.repeat(_ink(grey)[..., None], 3, axis=3).astype(np.uint8)


def blended(grey: np.ndarray, photos: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """uint8 [N, S, S] to uint8 [N, S, S, 3]: each digit's difference from a patch of its size, drawn with repeats."""
    side = grey.shape[1]
    out = np.empty((*grey.shape, 3), np.uint8)
    for row, ink in enumerate(_ink(grey)):
        photo = photos[int(rng.integers(len(photos)))]
        top, left = (rng.integers(size - side + 1) for size in photo.shape[:2])
        patch = photo[top : top + side, left : left + side].astype(np.int16)
        out[row] = np.abs(ink[..., None] - patch)
    return out


def _ink(grey: np.ndarray) -> np.ndarray:
    return np.where(grey > 0, 255, 0).astype(np.int16)
