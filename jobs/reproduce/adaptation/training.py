"""Train a learner and evaluate it at every checkpoint."""

import time

import torch

from jobs.reproduce.adaptation.experiment import AdaptationSettings, Learner

SERIES_POINTS = 40  # at which training metrics are recorded, evenly spaced


def train_and_evaluate(learner: Learner, settings: AdaptationSettings) -> dict[str, object]:
    """Return the metrics of every checkpoint, and a series of training metrics; plain values for JSON.

    `cpu_seconds` are those of the steps, `judging_seconds` the CPU seconds of everything else.
    """
    torch.set_num_threads(1)
    checkpoint_steps = {round(settings.steps * (k + 1) / settings.checkpoints) for k in range(settings.checkpoints)}
    series_interval = max(1, settings.steps // SERIES_POINTS)
    checkpoints, series, step_seconds = [], [], 0.0
    wall_started, cpu_started = time.perf_counter(), time.process_time()
    for step in range(settings.steps):
        step_started = time.process_time()
        metrics = learner.step(step, step / settings.steps)
        step_seconds += time.process_time() - step_started
        if step % series_interval == 0:
            series.append({"step": step, **metrics})
        if step + 1 in checkpoint_steps:
            checkpoints.append({"step": step + 1, **learner.evaluate(last=step + 1 == settings.steps)})
    distances: dict[str, object] = {
        name: checkpoints[-1].pop(name) for name in ("gap", "projection") if name in checkpoints[-1]
    }
    return {
        "steps": settings.steps,
        "seconds": time.perf_counter() - wall_started,
        "cpu_seconds": step_seconds,
        "judging_seconds": time.process_time() - cpu_started - step_seconds,
        "checkpoints": checkpoints,
        "series": series,
        **distances,
    }
