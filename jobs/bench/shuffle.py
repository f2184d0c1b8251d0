"""How well each `--shuffle` mixes the rows of a corpus, and what that is worth on a corpus that is sorted by class.

Neighbours are rows whose successor in the corpus is in the same batch. Of five captions of an image that stand side by
side, those that meet in a batch are lost. The accuracy is that of a small contrastive model of digits and the names of
their classes, trained on digits sorted by class and measured on the test set; the arms differ in the order of rows
alone, and `full` is what the others are compared with.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jobs.bench.digit_images import CLASSES, LabelledImages, read_digits
from jobs.bench.measurement import Measurement, median_measurement
from xmodal.data.stream.order import Shuffle, StreamPlan
from xmodal.losses.contrastive import info_nce

NEEDS = ("digits/mnist_*.parquet",)
ARMS: tuple[Shuffle, ...] = ("task", "wide", "full")
CORPORA = {"20x10000": (20, 10_000), "100x1000": (100, 1000)}  # shards and rows of each
NEIGHBOUR_TARGETS = {256: 0.01, 1024: 0.02}  # by batch size
ROWS_PER_EXTENT, IMAGE_CAPTIONS, LOST_TARGET = 256, 5, 30
SEEDS, EPOCHS, SHARDS, WIDTH = 3, 6, 20, 64


def run(folder: Path) -> Iterator[Measurement]:
    """Yield the shares of neighbours and of lost rows of each arm, then its accuracy; `folder` holds the data sets."""
    for batch_size in NEIGHBOUR_TARGETS:
        for name, (shards, rows) in CORPORA.items():
            for arm in ARMS:
                yield from mixing(f"{arm}_{name}_batch_{batch_size}", arm, extents_of(shards, rows), batch_size)
    torch.set_num_threads(1)
    digits, test = read_digits(folder / "digits" / "mnist_train.parquet"), read_digits(
        folder / "digits" / "mnist_test.parquet"
    )  # fmt: skip
    by_class = np.argsort(digits[1], kind="stable")
    ordered = digits[0][by_class], digits[1][by_class]
    for batch_size in NEIGHBOUR_TARGETS:
        accuracy = {arm: [train(ordered, test, arm, batch_size, seed) for seed in range(SEEDS)] for arm in ARMS}
        yield from accuracies(accuracy, batch_size)


def extents_of(shards: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the shard of each extent of a corpus."""
    of_shard = np.diff([*range(0, rows, ROWS_PER_EXTENT), rows])
    return np.tile(of_shard, shards), np.repeat(np.arange(shards), len(of_shard))


def epoch_rows(plan: StreamPlan, epoch: int) -> np.ndarray:
    """Return the rows of an epoch in their order, as [steps, batch size]; -1 is padding."""
    starts = np.cumsum(plan.extent_rows) - plan.extent_rows
    first = epoch * plan.steps_per_epoch
    parts = []
    for task in plan.tasks(first, first + plan.steps_per_epoch):
        if task.picks is None:
            rows = np.concatenate([starts[p.extent] + p.first + np.arange(p.rows) for p in task.slices])
            order = task.permutation()
            parts.append(np.where(order < 0, -1, rows[order]))
        else:
            parts.append(np.where(task.picks[:, 0] < 0, -1, starts[task.picks[:, 0]] + task.picks[:, 1]))
    return np.concatenate(parts).reshape(plan.steps_per_epoch, plan.global_batch)


def mixing(name: str, arm: Shuffle, extents: tuple[np.ndarray, np.ndarray], batch_size: int) -> Iterator[Measurement]:
    """Yield the share of neighbours, and at the larger batch the rows that repeat an image."""
    order = epoch_rows(StreamPlan(*extents, 0, batch_size, shuffle=arm), 0)
    step = np.empty(int(extents[0].sum()), np.int64)
    for number, batch in enumerate(order):
        step[batch[batch >= 0]] = number
    share = float((step[1:] == step[:-1]).mean())
    target = NEIGHBOUR_TARGETS[batch_size] if arm == "wide" else None
    yield Measurement(name=f"shuffle_{name}_neighbours", value=share, unit="share", target=target, lower_is_better=True)
    if batch_size == 1024:
        lost = [batch_size - len(np.unique(batch // IMAGE_CAPTIONS)) for batch in order[:-1]]
        target = LOST_TARGET if arm == "wide" else None
        yield median_measurement(lost, name=f"shuffle_{name}_lost", unit="rows", target=target, lower_is_better=True)


def accuracies(accuracy: dict[Shuffle, list[float]], batch_size: int) -> Iterator[Measurement]:
    """Yield the mean accuracy of each arm; `wide` must lie within the standard error of its difference from `full`."""
    mean = {arm: statistics.mean(values) for arm, values in accuracy.items()}
    error = {arm: statistics.stdev(values) / SEEDS**0.5 for arm, values in accuracy.items()}
    for arm, values in accuracy.items():
        target = mean["full"] - (error["full"] ** 2 + error[arm] ** 2) ** 0.5 if arm == "wide" else None
        yield Measurement(
            name=f"shuffle_{arm}_sorted_accuracy_batch_{batch_size}", value=mean[arm], unit="share", target=target,
            repeats=SEEDS, spread=error[arm], detail={"seeds": values, "epochs": EPOCHS},
        )  # fmt: skip


class DigitEncoder(nn.Module):
    """A small convolutional encoder of digits, and a vector for the name of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 7 * 7, WIDTH),
        )  # fmt: skip
        self.names = nn.Embedding(CLASSES, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(2.66))

    def images(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.layers(images[:, None].float() / 255), dim=-1)

    def classes(self, label: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.names(label), dim=-1)


def train(digits: LabelledImages, test: LabelledImages, arm: Shuffle, batch_size: int, seed: int) -> float:
    """Train on the digits in the order of the arm; return the accuracy on the test set."""
    images, label = (torch.from_numpy(array) for array in digits)
    rows = len(label) // SHARDS
    plan = StreamPlan(*extents_of(SHARDS, rows), seed, batch_size, shuffle=arm)
    torch.manual_seed(seed)
    model = DigitEncoder()
    steps = EPOCHS * plan.steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        for batch in epoch_rows(plan, epoch):
            chosen = torch.from_numpy(batch[batch >= 0])
            names = label[chosen]
            optimizer.zero_grad()
            info_nce(model.images(images[chosen]), model.classes(names), model.log_scale, ids=names).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        similarity = model.images(torch.from_numpy(test[0])) @ model.classes(torch.arange(CLASSES)).T
    return float((similarity.argmax(1) == torch.from_numpy(test[1])).float().mean())
