"""One arm with one seed, trained from scratch on data in memory: accuracies, conflicts and time come out."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from jobs.reproduce.arms import Arm
from xmodal.batch import Batch
from xmodal.encoders.multimodal import MultimodalClassifier
from xmodal.training.balance import balanced
from xmodal.training.state import TrainState
from xmodal.training.step import train_step

RATE = {"sgd": 0.02, "adamw": 1e-3}
WARM_UP = 50  # steps
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.01}


class Data(Protocol):
    """Rows in memory."""

    label: torch.Tensor

    def __len__(self) -> int: ...

    def batch(self, rows: torch.Tensor) -> Batch: ...

    def batches(self, size: int, seed: int, epoch: int) -> Any: ...


def trial(
    arm: Arm, seed: int, data: Mapping[str, Data], model: MultimodalClassifier, *, epochs: int, batch_size: int
) -> dict[str, Any]:
    """Train on `train`, judge on `validation` and, once, at the end, on `test`; plain values for JSON.

    The learning rate is constant after a short warm-up, as published. `conflict` is, for each epoch and encoder, the
    share of steps whose two gradients pointed apart.
    """
    torch.set_num_threads(1)
    objective, space = balanced(arm.balance, model)
    steps = epochs * (len(data["train"]) // batch_size)
    state = TrainState.create(
        objective,
        schedule=partial(_rate, RATE[arm.optimizer]),
        seed=seed,
        space=space,
        optimizer=arm.optimizer,
        weight_decay=WEIGHT_DECAY[arm.optimizer],
        max_grad_norm=None,
    )
    began, conflict = time.perf_counter(), []
    for epoch in range(epochs):
        seen = [train_step(state, batch) for batch in data["train"].batches(batch_size, seed, epoch)]
        conflict.append({name: _mean(seen, f"{name}/conflict") for name in model.modalities})
    seconds = time.perf_counter() - began
    heads = arm.balance.method != "joint"  # which leaves them as they were drawn
    return {
        "steps": steps,
        "seconds": seconds,
        "conflict": conflict,
        "cosine": {name: _mean(seen, f"{name}/cosine") for name in model.modalities},
        "validation": accuracies(model, data["validation"], heads=heads),
        "test": accuracies(model, data["test"], heads=heads),
    }


def _rate(peak: float, step: int) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP)


def accuracies(model: MultimodalClassifier, data: Data, *, heads: bool) -> dict[str, float]:
    """Share of right answers of the fusion, and with `heads` of each head and of the mean of their probabilities."""
    model.eval()
    scores = [model.scores(data.batch(rows)) for rows in torch.arange(len(data)).split(1000)]
    model.train()
    joined = {name: torch.cat([part[name] for part in scores]) for name in scores[0]}
    names = ["multimodal", *model.modalities] if heads else ["multimodal"]
    if heads:
        joined["ensemble"] = torch.stack([F.softmax(joined[name], 1) for name in model.modalities]).mean(0)
        names.append("ensemble")
    return {name: (joined[name].argmax(1) == data.label).float().mean().item() for name in names}


def _mean(seen: list[dict[str, float]], name: str) -> float | None:
    """None where the method measures no such thing."""
    values = [line[name] for line in seen if name in line]
    return float(np.mean(values)) if values else None
