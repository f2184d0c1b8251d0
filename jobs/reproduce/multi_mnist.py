"""MultiMNIST: two digits in one image, two tasks on one encoder; the second digit is faint and partly hidden.

After Sabour et al. (2017) and Sener & Koltun (2018), who overlaid two digits of equal strength. Here one task is made
clearly harder, because balanced learning claims to help where tasks differ in difficulty. Images are drawn once, with
fixed seeds, whatever the seed of a run.
"""

from pathlib import Path

import numpy as np
import torch

from jobs.reproduce import digits
from jobs.reproduce.arms import BalanceArm, select_arms, single_task_arms
from jobs.reproduce.experiment import BalanceExperiment, BalanceSettings, Splits
from jobs.reproduce.hypotheses import TASK_PREDICTIONS
from jobs.reproduce.learner import ExperimentModel, task_model
from jobs.reproduce.row_batches import Fields
from xmodal.encoders.inputs import ImageInput
from xmodal.encoders.multitask_classifier import MultitaskClassifier, SharedEncoder
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

TASKS = ("easy", "hard")
SIDE, DIGIT_PIXELS = 32, slice(4, 24)  # of the image; of a digit, whose strokes lie in 20 x 20 pixels
HARD_STRENGTH, PATCH = 0.5, 8  # factor of the hard digit's grey levels, side of the square that hides a part of it
NOISE = 25.0  # standard deviation in grey levels
MAX_SHIFT = 4  # pixels by which a digit's position varies: easy from the upper left, hard from the lower right


def read(root: Path, rows: int | None) -> Splits:
    """Return splits of `image` uint8 [N, 32, 32, 1], `easy_label` and `hard_label` int64 [N]."""
    splits = digits.read_splits(root, rows)
    return {name: overlay_digits(*splits[name], seed=seed) for seed, name in enumerate(("train", "validation", "test"))}


def overlay_digits(images: np.ndarray, label: np.ndarray, *, seed: int) -> Fields:
    """Return images of each digit as the easy one, with another digit of the same split as the hard one."""
    rng = np.random.default_rng(seed)
    partners = rng.permutation(len(label))
    canvas = np.zeros((len(label), SIDE, SIDE), np.float32)
    for row, partner in enumerate(partners):
        hard = HARD_STRENGTH * images[partner][DIGIT_PIXELS, DIGIT_PIXELS].astype(np.float32)
        y, x = rng.integers(0, 20 - PATCH + 1, 2)
        hard[y : y + PATCH, x : x + PATCH] = 0
        _paste_brighter(canvas[row], hard, SIDE - 20 - rng.integers(0, MAX_SHIFT + 1, 2))
        easy = images[row][DIGIT_PIXELS, DIGIT_PIXELS].astype(np.float32)
        _paste_brighter(canvas[row], easy, rng.integers(0, MAX_SHIFT + 1, 2))
    noisy = canvas + rng.normal(0, NOISE, canvas.shape)
    return {
        "image": torch.from_numpy(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None]),
        "easy_label": torch.from_numpy(label),
        "hard_label": torch.from_numpy(label[partners]),
    }


def _paste_brighter(canvas: np.ndarray, digit: np.ndarray, corner: np.ndarray) -> None:
    """Paste a digit onto the canvas; each pixel keeps the brighter of both."""
    y, x = corner
    part = canvas[y : y + 20, x : x + 20]
    np.maximum(part, digit, out=part)


def build_model(arm: BalanceArm, train: Fields, seed: int) -> ExperimentModel:
    """Return one small residual network that pools its last map by quarters, with two linear heads."""
    torch.manual_seed(seed)
    config = ConvConfig(hidden_sizes=[32, 64], depths=[1, 1], stem_size=16, group_size=8, num_channels=1, grid=2)
    encoder = SharedEncoder(ImageInput("image", size=SIDE, mean=(0.18,), std=(0.28,)), ConvModel(config))
    classes = dict.fromkeys(TASKS, digits.CLASSES)
    return task_model(arm, MultitaskClassifier(encoder, width=config.feature_size, classes=classes))


EXPERIMENT = BalanceExperiment(
    title="MultiMNIST with a hard task",
    intro=(
        "Two digits in one image, one clear, one faint and partly hidden: two tasks of different difficulty share an "
        "encoder. The same weightings combine their gradients.",
    ),
    settings=BalanceSettings(rows=20_000, epochs=8, batch_size=64, sgd_rate=0.02, adamw_rate=1e-3),
    arms={
        **single_task_arms(*TASKS),
        **select_arms("uniform", "uniform-gamma", "mmpareto", "min-norm-2", "pcgrad", "upgrad", "mmpareto-features"),
    },
    heads=TASKS,
    encoders=("shared",),
    primary="average",
    chance=1 / digits.CLASSES,
    read=read,
    build_model=build_model,
    facts={
        "Pictures": f"MNIST digits on {SIDE} x {SIDE} pixels; the hard one at {HARD_STRENGTH:.0%} strength, {PATCH} x "
        f"{PATCH} pixels of it hidden, the easy one over it, noise of {NOISE:g} grey levels",
        "Validation": f"{digits.VALIDATION_ROWS:,} pictures; rates and epochs were chosen there",
        "Test": "10,000 pictures, judged once for each trial",
    },
    predictions=TASK_PREDICTIONS,
)
