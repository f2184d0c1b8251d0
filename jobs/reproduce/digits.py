"""The files of handwritten digits in, pictures and classes as arrays out."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from xmodal.errors import ConfigError

NEEDS = {"digits/mnist_*.parquet": "columns image and label"}
CLASSES, SIDE = 10, 28
VALIDATION = 5_000  # the last digits of the training file

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 [N, 28, 28], int64 [N]


def splits(root: Path, rows: int | None) -> dict[str, Labelled]:
    """`train` (the first `rows` digits, all but the validation where None), `validation` and `test`."""
    pictures, label = read(root / "digits" / "mnist_train.parquet")
    most = len(pictures) - VALIDATION
    if rows is not None and not CLASSES <= rows <= most:
        raise ConfigError(f"rows={rows} must lie in {CLASSES}..{most}; the last {VALIDATION:,} digits are validation")
    return {
        "train": (pictures[: rows or most], label[: rows or most]),
        "validation": (pictures[most:], label[most:]),
        "test": read(root / "digits" / "mnist_test.parquet"),
    }


def read(path: Path) -> Labelled:
    """A parquet file of PNG pictures with their classes."""
    table = pq.read_table(path)
    pictures = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in table["image"].to_pylist()]
    return np.stack(pictures), table["label"].to_numpy().astype(np.int64)
