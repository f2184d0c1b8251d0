"""Split the handwritten digits of MNIST into those for training, validation and test."""

from pathlib import Path

from jobs.bench.digit_images import CLASSES, SIDE, LabelledImages, read_digits
from xmodal.errors import ConfigError

__all__ = ["CLASSES", "SIDE", "VALIDATION_ROWS", "LabelledImages", "read_digits", "read_splits"]

VALIDATION_ROWS = 5_000  # the last digits of the training file


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
