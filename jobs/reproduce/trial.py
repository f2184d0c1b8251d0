"""One arm with one seed, trained from scratch on data in memory: accuracies, conflicts, time and memory come out."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jobs.bench.memory import forget_peak, resident
from jobs.reproduce.arms import Arm
from jobs.reproduce.diagnosis import diagnosis
from jobs.reproduce.evaluation import accuracies, probes
from jobs.reproduce.experiment import Settings
from jobs.reproduce.learner import Subject
from jobs.reproduce.row_batches import Rows
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

WARM_UP = 50  # steps
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.01}


def trial(arm: Arm, seed: int, data: Mapping[str, Rows], subject: Subject, settings: Settings) -> dict[str, Any]:
    """Train on `train`, judge on `validation` and, once, at the end, on `test`; plain values for JSON.

    `conflict` is, for each epoch and encoder, the share of steps whose two gradients pointed apart. `cpu_seconds` are
    those of the training steps, `peak_bytes` what they took above what lay in memory before. Arms that are `diagnosed`
    have the entries of `diagnosis`, too.
    """
    torch.set_num_threads(1)
    steps = settings.epochs * (len(data["train"]) // settings.batch_size)
    state = _state(arm, seed, subject, settings, steps)
    forget_peak()
    before, began, cpu, conflict = resident("VmRSS"), time.perf_counter(), time.process_time(), []
    for epoch in range(settings.epochs):
        batches = data["train"].batches(settings.batch_size, seed, epoch)
        seen = [train_step(state, batch) for batch in batches]
        conflict.append({name: _mean(seen, f"{name}/conflict") for name in subject.encoders})
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    peak = resident("VmHWM") - before
    return {
        "steps": steps,
        **spent,
        "peak_bytes": peak,
        "conflict": conflict,
        "cosine": {name: _mean(seen, f"{name}/cosine") for name in subject.encoders},
        "loss": _mean(seen, "loss"),
        "validation": accuracies(subject, data["validation"]),
        "test": accuracies(subject, data["test"]),
        "probe": probes(subject, data["train"], data["test"], seed=seed),
        **(diagnosis(subject, data["train"], settings.batch_size, seed=seed) if arm.diagnosed else {}),
    }


def _state(arm: Arm, seed: int, subject: Subject, settings: Settings, steps: int) -> TrainState:
    peak = settings.sgd_rate if arm.optimizer == "sgd" else settings.adamw_rate

    def rate(step: int) -> float:
        left = (1 + math.cos(math.pi * step / steps)) / 2 if settings.cosine else 1.0
        return peak * left * min(1.0, (step + 1) / WARM_UP)

    return TrainState.create(
        subject.objective,
        schedule=rate,
        seed=seed,
        space=subject.space,
        optimizer=arm.optimizer,
        weight_decay=WEIGHT_DECAY[arm.optimizer],
        max_grad_norm=None,
    )


def _mean(seen: list[dict[str, float]], name: str) -> float | None:
    """None where the method measures no such thing."""
    values = [line[name] for line in seen if name in line]
    return float(np.mean(values)) if values else None
