"""MultiMNIST: two digits in one picture, two tasks on one encoder; the second digit is faint and partly hidden.

After Sabour et al. (2017) and Sener & Koltun (2018), who overlaid two digits of equal strength. Here one task is made
clearly harder, because balanced learning claims to help where tasks differ in difficulty. Pictures are drawn once,
whatever a run's seed.
"""

from pathlib import Path

import numpy as np
import torch

from jobs.reproduce import digits
from jobs.reproduce.arms import Arm, alone, some
from jobs.reproduce.experiment import Experiment, Settings, Splits
from jobs.reproduce.hypotheses import OF_TASKS
from jobs.reproduce.learner import Subject, of_tasks
from jobs.reproduce.row_batches import Fields
from xmodal.encoders.inputs import Pixels
from xmodal.encoders.multitask_classifier import SharedEncoder, TaskClassifier
from xmodal.encoders.small_resnet import ConvConfig, ConvModel

TASKS = ("easy", "hard")
SIDE, BOX = 32, slice(4, 24)  # of the picture; of a digit, whose strokes lie in 20 x 20 pixels
FAINT, NOISE, PATCH = 0.5, 25.0, 8  # of the hard digit: strength, grey levels (sd), side of what hides it
ROOM = 4  # pixels by which a digit's place varies: easy from the upper left, hard to the lower right


def read(root: Path, rows: int | None) -> Splits:
    """`image` uint8 [N, 32, 32, 1], `easy_label` and `hard_label` int64 [N]."""
    found = digits.splits(root, rows)
    return {name: overlaid(*found[name], seed=seed) for seed, name in enumerate(("train", "validation", "test"))}


def overlaid(pictures: np.ndarray, label: np.ndarray, *, seed: int) -> Fields:
    """Each digit as the easy one, and another of the same split as the hard one."""
    rng = np.random.default_rng(seed)
    other = rng.permutation(len(label))
    canvas = np.zeros((len(label), SIDE, SIDE), np.float32)
    for row, partner in enumerate(other):
        hard = FAINT * pictures[partner][BOX, BOX].astype(np.float32)
        y, x = rng.integers(0, 20 - PATCH + 1, 2)
        hard[y : y + PATCH, x : x + PATCH] = 0
        _lay(canvas[row], hard, SIDE - 20 - rng.integers(0, ROOM + 1, 2))
        _lay(canvas[row], pictures[row][BOX, BOX].astype(np.float32), rng.integers(0, ROOM + 1, 2))
    noisy = canvas + rng.normal(0, NOISE, canvas.shape)
    return {
        "image": torch.from_numpy(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., None]),
        "easy_label": torch.from_numpy(label),
        "hard_label": torch.from_numpy(label[other]),
    }


def _lay(canvas: np.ndarray, digit: np.ndarray, corner: np.ndarray) -> None:
    """The brighter of the two stays."""
    y, x = corner
    part = canvas[y : y + 20, x : x + 20]
    np.maximum(part, digit, out=part)


def subject(arm: Arm, train: Fields, seed: int) -> Subject:
    """One small residual network that pools its last map by quarters, and two linear heads."""
    torch.manual_seed(seed)
    config = ConvConfig(hidden_sizes=[32, 64], depths=[1, 1], stem_size=16, group_size=8, num_channels=1, grid=2)
    encoder = SharedEncoder(Pixels("image", size=SIDE, mean=(0.18,), std=(0.28,)), ConvModel(config))
    classes = dict.fromkeys(TASKS, digits.CLASSES)
    return of_tasks(arm, TaskClassifier(encoder, width=config.feature_size, classes=classes))


EXPERIMENT = Experiment(
    title="MultiMNIST with a hard task",
    leads=(
        "Two digits in one picture, one clear, one faint and partly hidden: two tasks of different difficulty share an "
        "encoder. The same weightings decide where their gradients meet.",
    ),
    needs=digits.NEEDS,
    settings=Settings(rows=20_000, epochs=8, batch_size=64, sgd_rate=0.02, adamw_rate=1e-3),
    arms={
        **alone(*TASKS),
        **some("uniform", "uniform-gamma", "mmpareto", "min-norm-2", "pcgrad", "upgrad", "mmpareto-features"),
    },
    heads=TASKS,
    encoders=("shared",),
    primary="average",
    chance=1 / digits.CLASSES,
    read=read,
    subject=subject,
    facts={
        "Pictures": f"MNIST digits on {SIDE} x {SIDE} pixels; the hard one at {FAINT:.0%} strength, {PATCH} x {PATCH} "
        f"pixels of it hidden, the easy one over it, noise of {NOISE:g} grey levels",
        "Validation": f"{digits.VALIDATION:,} pictures; rates and epochs were chosen there",
        "Test": "10,000 pictures, judged once for each trial",
    },
    predictions=OF_TASKS,
)
