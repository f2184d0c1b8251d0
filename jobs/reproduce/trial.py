"""Train one arm with one seed from scratch on data in memory, and measure accuracy, conflicts, time and memory."""

import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from jobs.bench.memory import memory_bytes, reset_peak
from jobs.reproduce.arms import BalanceArm
from jobs.reproduce.diagnosis import diagnose
from jobs.reproduce.evaluation import accuracies, probe_accuracies
from jobs.reproduce.experiment import BalanceSettings
from jobs.reproduce.learner import ExperimentModel
from jobs.reproduce.row_batches import RowDataset
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

WARMUP_STEPS = 50
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.01}


def train_and_test(
    arm: BalanceArm, seed: int, data: Mapping[str, RowDataset], model: ExperimentModel, settings: BalanceSettings
) -> dict[str, object]:
    """Train on `train`, then evaluate on `validation` and, once, on `test`; return plain values for JSON.

    `conflict` is the share of steps whose two gradients opposed each other, for each epoch and encoder. `cpu_seconds`
    are those of the training steps, `peak_bytes` is the rise of resident memory during them. An arm with `diagnose`
    adds the entries of `jobs.reproduce.diagnosis.diagnose`.
    """
    torch.set_num_threads(1)
    steps = settings.epochs * (len(data["train"]) // settings.batch_size)
    state = _train_state(arm, seed, model, settings, steps)
    reset_peak()
    before, started, cpu, conflict = memory_bytes("VmRSS"), time.perf_counter(), time.process_time(), []
    for epoch in range(settings.epochs):
        batches = data["train"].batches(settings.batch_size, seed, epoch)
        step_metrics = [train_step(state, batch) for batch in batches]
        conflict.append({name: _mean(step_metrics, f"{name}/conflict") for name in model.encoders})
    times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    peak = memory_bytes("VmHWM") - before
    return {
        "steps": steps,
        **times,
        "peak_bytes": peak,
        "conflict": conflict,
        "cosine": {name: _mean(step_metrics, f"{name}/cosine") for name in model.encoders},
        "loss": _mean(step_metrics, "loss"),
        "validation": accuracies(model, data["validation"]),
        "test": accuracies(model, data["test"]),
        "probe": probe_accuracies(model, data["train"], data["test"], seed=seed),
        **(diagnose(model, data["train"], settings.batch_size, seed=seed) if arm.diagnose else {}),
    }


def _train_state(
    arm: BalanceArm, seed: int, model: ExperimentModel, settings: BalanceSettings, steps: int
) -> TrainState:
    peak_rate = settings.sgd_rate if arm.optimizer == "sgd" else settings.adamw_rate

    def rate(step: int) -> float:
        factor = (1 + math.cos(math.pi * step / steps)) / 2 if settings.cosine else 1.0
        return peak_rate * factor * min(1.0, (step + 1) / WARMUP_STEPS)

    return TrainState.create(
        model.objective,
        schedule=rate,
        seed=seed,
        space=model.space,
        optimizer=arm.optimizer,
        weight_decay=WEIGHT_DECAY[arm.optimizer],
        max_grad_norm=None,
    )


def _mean(step_metrics: list[dict[str, float]], name: str) -> float | None:
    """Return the mean of a metric over the steps; None where the method does not measure it."""
    values = [line[name] for line in step_metrics if name in line]
    return float(np.mean(values)) if values else None
