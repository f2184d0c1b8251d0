"""CG-MNIST: a grey digit beside the same digit in a colour that betrays its class in training and nothing in the test.

A model that trains both together takes the colour and neglects the shape; balanced learning is measured by how much of
the shape it still learns. As in PMR (Fan et al. 2023): ten mean colours, jitter of variance 0.03. Training digits have
the colour of their class, those of validation and test one drawn at random; both are fixed, whatever a run's seed.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from xmodal.batch import Batch
from xmodal.encoders.conv import ConvConfig, ConvModel
from xmodal.encoders.intake import Pixels
from xmodal.encoders.multimodal import Encoder, MultimodalClassifier
from xmodal.errors import ConfigError

MODALITIES = ("grey", "colour")
CLASSES, SIDE, JITTER = 10, 28, 0.03
VALIDATION = 5_000  # the last digits of the training file, coloured as the test
COLOURS = np.array(
    [[220, 20, 60], [0, 128, 128], [253, 233, 16], [0, 149, 182], [237, 145, 33],
     [145, 30, 188], [70, 240, 240], [250, 197, 187], [210, 245, 60], [128, 0, 0]], np.float32,
) / 255  # fmt: skip


@dataclass(frozen=True, eq=False)
class Digits:
    """`grey` uint8 [N, 28, 28, 1], `colour` uint8 [N, 28, 28, 3], `label` int64 [N]."""

    grey: torch.Tensor
    colour: torch.Tensor
    label: torch.Tensor

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, rows: torch.Tensor) -> Batch:
        fields = {"grey": self.grey[rows], "colour": self.colour[rows], "label": self.label[rows]}
        return Batch(rows, torch.ones(len(rows), dtype=torch.bool), fields)

    def batches(self, size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Every row once in an order of (seed, epoch); the last rows that fill no batch are left out."""
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(self)))
        for start in range(0, len(self) - size + 1, size):
            yield self.batch(order[start : start + size])


def load(root: Path, rows: int | None) -> dict[str, Digits]:
    """`train` (the first `rows` digits), `validation` and `test`; ConfigError where the files are not there."""
    whole, label = _read(root / "digits" / "mnist_train.parquet")
    test, test_label = _read(root / "digits" / "mnist_test.parquet")
    most = len(whole) - VALIDATION
    if rows is not None and not CLASSES <= rows <= most:
        raise ConfigError(f"rows={rows} must lie in {CLASSES}..{most}; the last {VALIDATION:,} digits are validation")
    return {
        "train": coloured(whole[: rows or most], label[: rows or most], betrayed=True, seed=0),
        "validation": coloured(whole[most:], label[most:], betrayed=False, seed=1),
        "test": coloured(test, test_label, betrayed=False, seed=2),
    }


def coloured(grey: np.ndarray, label: np.ndarray, *, betrayed: bool, seed: int) -> Digits:
    """Grey digits uint8 [N, 28, 28] beside coloured ones; `betrayed`: the colour is that of the class."""
    rng = np.random.default_rng(seed)
    kind = label if betrayed else rng.integers(0, CLASSES, len(label))
    tint = np.clip(COLOURS[kind] + rng.normal(0, JITTER**0.5, (len(label), 3)), 0, 1)
    colour = np.rint(grey[..., None] * tint[:, None, None, :]).astype(np.uint8)
    return Digits(torch.from_numpy(grey[..., None]), torch.from_numpy(colour), torch.from_numpy(label))


def model(seed: int) -> MultimodalClassifier:
    """Two convolutional encoders of the same kind, joined by concatenation."""
    torch.manual_seed(seed)
    encoders = {}
    for name, channels in (("grey", 1), ("colour", 3)):
        config = ConvConfig(hidden_sizes=[32, 64], depths=[1, 1], stem_size=16, group_size=8, num_channels=channels)
        pixels = Pixels(name, size=SIDE, mean=(0.13,) * channels, std=(0.31,) * channels)
        encoders[name] = Encoder(pixels, ConvModel(config))
    return MultimodalClassifier(encoders, classes=CLASSES, fusion_name="concatenation")


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(path)
    pictures = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in table["image"].to_pylist()]
    return np.stack(pictures), table["label"].to_numpy().astype(np.int64)
