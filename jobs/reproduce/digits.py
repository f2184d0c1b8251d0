"""Read files of handwritten digits into arrays of images and classes."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from xmodal.errors import ConfigError

CLASSES, SIDE = 10, 28
VALIDATION_ROWS = 5_000  # the last digits of the training file

LabelledImages = tuple[np.ndarray, np.ndarray]  # uint8 [N, 28, 28], int64 [N]


def read_splits(root: Path, rows: int | None) -> dict[str, LabelledImages]:
    """Return `train` (the first `rows` digits, or all but the validation rows), `validation` and `test` of MNIST.

    Raises ConfigError where `rows` is not between the number of classes and the number of training digits.
    """
    images, label = read_digits(root / "digits" / "mnist_train.parquet")
    train_rows = len(images) - VALIDATION_ROWS
    if rows is not None and not CLASSES <= rows <= train_rows:
        raise ConfigError(
            f"rows={rows} must lie in {CLASSES}..{train_rows}; the last {VALIDATION_ROWS:,} digits are validation"
        )
    return {
        "train": (images[: rows or train_rows], label[: rows or train_rows]),
        "validation": (images[train_rows:], label[train_rows:]),
        "test": read_digits(root / "digits" / "mnist_test.parquet"),
    }


def read_digits(path: Path) -> LabelledImages:
    """Return the images and classes of a Parquet file of PNG images."""
    table = pq.read_table(path)
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    return np.stack(images), table["label"].to_numpy().astype(np.int64)
