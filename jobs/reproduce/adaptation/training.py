"""A learner and its settings in; what it showed at every checkpoint, on the way, and at the end, out."""

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jobs.reproduce.adaptation.experiment import Learner, Settings

RECORDED = 40  # points of a series


def trial(learner: "Learner", settings: "Settings") -> dict[str, Any]:
    """Plain values for JSON; `cpu_seconds` are those of the steps, `judging_seconds` the CPU seconds of all else."""
    torch.set_num_threads(1)
    due = {round(settings.steps * (k + 1) / settings.checkpoints) for k in range(settings.checkpoints)}
    every = max(1, settings.steps // RECORDED)
    checkpoints, series, spent = [], [], 0.0
    wall, began = time.perf_counter(), time.process_time()
    for step in range(settings.steps):
        cpu = time.process_time()
        figures = learner.step(step, step / settings.steps)
        spent += time.process_time() - cpu
        if step % every == 0:
            series.append({"step": step, **figures})
        if step + 1 in due:
            checkpoints.append({"step": step + 1, **learner.judge(last=step + 1 == settings.steps)})
    final: dict[str, Any] = {
        name: checkpoints[-1].pop(name) for name in ("gap", "projection") if name in checkpoints[-1]
    }
    return {
        "steps": settings.steps,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": spent,
        "judging_seconds": time.process_time() - began - spent,
        "checkpoints": checkpoints,
        "series": series,
        **final,
    }
