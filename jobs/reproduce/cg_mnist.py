"""CG-MNIST: a grey digit, and the same digit in a colour that gives its class away in training but not in the test.

A model that trains both together learns the colour and neglects the shape; balanced learning is measured by how much of
the shape it still learns. As in PMR (Fan et al. 2023): ten mean colours, jitter of variance 0.03. Training digits have
the colour of their class, those of validation and test a colour drawn at random; both are fixed, whatever the seed of a
run.
"""

from pathlib import Path

import numpy as np
import torch

from jobs.reproduce import digits
from jobs.reproduce.arms import ARMS, BalanceArm
from jobs.reproduce.experiment import BalanceExperiment, BalanceSettings, Splits
from jobs.reproduce.hypotheses import MODALITY_PREDICTIONS
from jobs.reproduce.learner import ExperimentModel, modality_model
from jobs.reproduce.row_batches import Fields
from xmodal.encoders.inputs import ImageInput
from xmodal.encoders.multimodal_classifier import ModalityEncoder, MultimodalClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

MODALITIES, JITTER = ("grey", "colour"), 0.03
COLOURS = np.array(
    [[220, 20, 60], [0, 128, 128], [253, 233, 16], [0, 149, 182], [237, 145, 33],
     [145, 30, 188], [70, 240, 240], [250, 197, 187], [210, 245, 60], [128, 0, 0]], np.float32,
) / 255  # fmt: skip


def read(root: Path, rows: int | None) -> Splits:
    """Return splits of `grey` uint8 [N, 28, 28, 1], `colour` uint8 [N, 28, 28, 3] and `label` int64 [N]."""
    splits = digits.read_splits(root, rows)
    return {
        name: colour_digits(*splits[name], by_class=name == "train", seed=seed)
        for seed, name in enumerate(("train", "validation", "test"))
    }


def colour_digits(grey: np.ndarray, label: np.ndarray, *, by_class: bool, seed: int) -> Fields:
    """Return grey digits uint8 [N, 28, 28] and the same in colour, by their class or drawn at random."""
    rng = np.random.default_rng(seed)
    colour_class = label if by_class else rng.integers(0, digits.CLASSES, len(label))
    tint = np.clip(COLOURS[colour_class] + rng.normal(0, JITTER**0.5, (len(label), 3)), 0, 1)
    colour = np.rint(grey[..., None] * tint[:, None, None, :]).astype(np.uint8)
    return {
        "grey": torch.from_numpy(grey[..., None]),
        "colour": torch.from_numpy(colour),
        "label": torch.from_numpy(label),
    }


def build_model(arm: BalanceArm, train: Fields, seed: int) -> ExperimentModel:
    """Return two convolutional encoders of the same kind, joined by concatenation."""
    torch.manual_seed(seed)
    encoders = {}
    for name, channels in (("grey", 1), ("colour", 3)):
        config = ConvConfig(hidden_sizes=[32, 64], depths=[1, 1], stem_size=16, group_size=8, num_channels=channels)
        pixels = ImageInput(name, size=digits.SIDE, mean=(0.13,) * channels, std=(0.31,) * channels)
        encoders[name] = ModalityEncoder(pixels, ConvModel(config))
    return modality_model(arm, MultimodalClassifier(encoders, classes=digits.CLASSES, fusion_name="concatenation"))


EXPERIMENT = BalanceExperiment(
    title="CG-MNIST",
    intro=(
        "A grey digit, and the same digit in a colour that gives its class away in training and is drawn at random in "
        "the test. What a model still learns of the shape tells whether the easy modality starves the other.",
    ),
    settings=BalanceSettings(rows=20_000, epochs=5, batch_size=64, sgd_rate=0.02, adamw_rate=1e-3),
    seeds=(0, 1, 2, 3, 4),
    arms=ARMS,
    heads=MODALITIES,
    encoders=MODALITIES,
    chance=1 / digits.CLASSES,
    read=read,
    build_model=build_model,
    facts={
        "Validation": f"{digits.VALIDATION_ROWS:,} digits of the training file; rates and epochs were chosen there",
        "Test": "10,000 digits, judged once for each trial, after its last step",
    },
    predictions=MODALITY_PREDICTIONS,
)
