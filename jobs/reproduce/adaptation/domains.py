"""The files of digits and photographs in, a labelled source and a target of the same classes out.

Every domain has three parts: `train` (of the target the labels are for the oracle alone), `held` (of the target
unlabelled: validators look at it) and `test`. No digit is in two domains, no photograph in two parts.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jobs.reproduce import digits
from jobs.reproduce.adaptation.mnist_m import binarised, blended, photographs
from jobs.reproduce.digits import Labelled
from xmodal.errors import ConfigError

Fields = dict[str, torch.Tensor]
Parts = dict[str, Fields]  # "source/train", "source/held", "source/test", "target/train", ...
NEEDS_M = digits.NEEDS | {"photos/*.tar": "JPEG photographs"}
NEEDS_USPS = digits.NEEDS | {"digits/usps_*.parquet": "columns image and label"}
SEED = 20_160  # of the blending, whatever a run's seed
HELD = 2_000
PHOTOS = (0.7, 0.85)  # of all photographs: up to here train, up to there held, then test


def mnist_to_m(root: Path, rows: int | None) -> Parts:
    """MNIST in black and white, and other digits of it blended with photographs; `rows` digits of each to train on."""
    train, test = (digits.read(root / "digits" / f"mnist_{name}.parquet") for name in ("train", "test"))
    held = _last(train, HELD), _last(train, 2 * HELD, HELD)
    parts = {"train": _halves(train, rows, kept=2 * HELD), "held": held, "test": _halves(test)}
    shown, rng = photographs(f"{root}/photos/*.tar"), np.random.default_rng(SEED)
    bounds = [0, *(round(share * len(shown)) for share in PHOTOS), len(shown)]
    found = {}
    for place, (name, (plain, other)) in enumerate(parts.items()):
        photos = shown[bounds[place] : bounds[place + 1]]
        found[f"source/{name}"] = _fields(binarised(plain[0]), plain[1])
        found[f"target/{name}"] = _fields(blended(other[0], photos, rng), other[1])
    return found


def mnist_to_usps(root: Path, rows: int | None) -> Parts:
    """Both in grey at 28 x 28 (USPS enlarged from 16 x 16); `rows` digits of MNIST at the most, all of USPS."""
    return _paired("mnist", "usps", root, rows)


def usps_to_mnist(root: Path, rows: int | None) -> Parts:
    """The other way round."""
    return _paired("usps", "mnist", root, rows)


def _paired(source: str, target: str, root: Path, rows: int | None) -> Parts:
    found = {}
    for domain, name in (("source", source), ("target", target)):
        train, test = (digits.read(root / "digits" / f"{name}_{part}.parquet") for part in ("train", "test"))
        held = min(HELD, len(train[1]) // 7)
        most = len(train[1]) - held
        some = min(rows or most, most)
        parts = {"train": (train[0][:some], train[1][:some]), "held": _last(train, held), "test": test}
        for part, (pictures, label) in parts.items():
            found[f"{domain}/{part}"] = _fields(_three_channels(pictures), label)
    return found


def _halves(one: Labelled, rows: int | None = None, *, kept: int = 0) -> tuple[Labelled, Labelled]:
    """Different digits for both domains, `rows` each (None: half of all but the last `kept`)."""
    most = (len(one[1]) - kept) // 2
    if rows is not None and not digits.CLASSES <= rows <= most:
        raise ConfigError(f"rows={rows} must lie in {digits.CLASSES}..{most}: the domains share no digit")
    some = rows or most
    return (one[0][:some], one[1][:some]), (one[0][some : 2 * some], one[1][some : 2 * some])


def _last(one: Labelled, count: int, end: int = 0) -> Labelled:
    part = slice(len(one[1]) - count, len(one[1]) - end)
    return one[0][part], one[1][part]


def _three_channels(pictures: np.ndarray) -> np.ndarray:
    side = digits.SIDE
    if pictures.shape[1] != side:
        large = [Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR) for one in pictures]
        pictures = np.stack([np.asarray(one) for one in large])
    return np.repeat(pictures[..., None], 3, axis=3)


def _fields(pictures: np.ndarray, label: np.ndarray) -> Fields:
    return {"image": torch.from_numpy(np.ascontiguousarray(pictures)), "label": torch.from_numpy(label)}


READ: dict[str, Callable[[Path, int | None], Parts]] = {
    "digits-adaptation": mnist_to_m,
    "digits-captions": mnist_to_m,
    "mnist-usps": mnist_to_usps,
    "usps-mnist": usps_to_mnist,
}
