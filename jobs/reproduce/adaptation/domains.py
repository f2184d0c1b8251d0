"""Read a labelled source and a target of the same classes from the files of digits and photographs.

Every domain has three parts: `train` (labels of the target are for the oracle alone), `held` (validators look at it;
that of the target without labels) and `test`. No digit is in two domains, no photograph in two parts.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jobs.reproduce import digits
from jobs.reproduce.adaptation.experiment import Parts
from jobs.reproduce.adaptation.mnist_m import binarise, blend, read_photographs
from jobs.reproduce.digits import LabelledImages
from jobs.reproduce.row_batches import Fields
from xmodal.errors import ConfigError

SEED = 20_160  # of the blending, whatever the seed of a run
HELD_OUT_ROWS = 2_000
PHOTO_BOUNDS = (0.7, 0.85)  # shares of all photographs at which train and held end; the rest is test


def read_mnist_to_mnist_m(root: Path, rows: int | None) -> Parts:
    """Return MNIST in black and white, and other digits of it blended with photographs.

    `rows` is the number of training digits of each domain; None: half of all.
    """
    train, test = (digits.read_digits(root / "digits" / f"mnist_{name}.parquet") for name in ("train", "test"))
    parts = {
        "train": _split_in_halves(train, rows, held_out=2 * HELD_OUT_ROWS),
        "held": (_last_rows(train, HELD_OUT_ROWS), _last_rows(train, 2 * HELD_OUT_ROWS, HELD_OUT_ROWS)),
        "test": _split_in_halves(test),
    }
    photos, rng = read_photographs(f"{root}/photos/*.tar"), np.random.default_rng(SEED)
    bounds = [0, *(round(share * len(photos)) for share in PHOTO_BOUNDS), len(photos)]
    domains = {}
    for number, (name, (source_digits, target_digits)) in enumerate(parts.items()):
        part_photos = photos[bounds[number] : bounds[number + 1]]
        domains[f"source/{name}"] = _fields(binarise(source_digits[0]), source_digits[1])
        domains[f"target/{name}"] = _fields(blend(target_digits[0], part_photos, rng), target_digits[1])
    return domains


def read_mnist_to_usps(root: Path, rows: int | None) -> Parts:
    """Return MNIST and USPS in grey at 28 x 28 (USPS enlarged from 16 x 16), at most `rows` training digits of each."""
    return _read_pair("mnist", "usps", root, rows)


def read_usps_to_mnist(root: Path, rows: int | None) -> Parts:
    """Return USPS and MNIST in grey at 28 x 28 (USPS enlarged from 16 x 16), at most `rows` training digits of each."""
    return _read_pair("usps", "mnist", root, rows)


def _read_pair(source: str, target: str, root: Path, rows: int | None) -> Parts:
    domains = {}
    for domain, name in (("source", source), ("target", target)):
        train, test = (digits.read_digits(root / "digits" / f"{name}_{part}.parquet") for part in ("train", "test"))
        held_out = min(HELD_OUT_ROWS, len(train[1]) // 7)
        train_rows = len(train[1]) - held_out
        count = min(rows or train_rows, train_rows)
        parts = {"train": (train[0][:count], train[1][:count]), "held": _last_rows(train, held_out), "test": test}
        for part, (images, label) in parts.items():
            domains[f"{domain}/{part}"] = _fields(_three_channels(images), label)
    return domains


def _split_in_halves(
    labelled: LabelledImages, rows: int | None = None, *, held_out: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Return different digits for both domains, `rows` of each, or half of all but the last `held_out`."""
    images, label = labelled
    half = (len(label) - held_out) // 2
    if rows is not None and not digits.CLASSES <= rows <= half:
        raise ConfigError(f"rows={rows} must lie in {digits.CLASSES}..{half}: the domains share no digit")
    count = rows or half
    return (images[:count], label[:count]), (images[count : 2 * count], label[count : 2 * count])


def _last_rows(labelled: LabelledImages, count: int, end: int = 0) -> LabelledImages:
    """Return the last `count` rows but for the last `end` of them."""
    images, label = labelled
    rows = slice(len(label) - count, len(label) - end)
    return images[rows], label[rows]


def _three_channels(images: np.ndarray) -> np.ndarray:
    """Return grey digits of any size as uint8 [N, 28, 28, 3]."""
    side = digits.SIDE
    if images.shape[1] != side:
        resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images]
        images = np.stack([np.asarray(image) for image in resized])
    return np.repeat(images[..., None], 3, axis=3)


def _fields(images: np.ndarray, label: np.ndarray) -> Fields:
    return {"image": torch.from_numpy(np.ascontiguousarray(images)), "label": torch.from_numpy(label)}


READERS: dict[str, Callable[[Path, int | None], Parts]] = {
    "digits-adaptation": read_mnist_to_mnist_m,
    "digits-captions": read_mnist_to_mnist_m,
    "mnist-usps": read_mnist_to_usps,
    "usps-mnist": read_usps_to_mnist,
}
