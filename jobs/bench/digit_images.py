"""Read files of handwritten digits into arrays of images and classes."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

CLASSES, SIDE = 10, 28
LabelledImages = tuple[np.ndarray, np.ndarray]  # uint8 [N, 28, 28], int64 [N]


def read_digits(path: Path) -> LabelledImages:
    """Return the images and classes of a Parquet file of PNG images."""
    table = pq.read_table(path)
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"].to_pylist()]
    return np.stack(images), table["label"].to_numpy().astype(np.int64)
