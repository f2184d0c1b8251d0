"""Preview a sweep: its space, its first trials, its rungs, and the run that is swept."""

import importlib
from dataclasses import replace
from typing import Any

from pipelines.config.sweep import SweepConfig
from pipelines.sweep.plan import outline
from pipelines.sweep.search_algorithm import PointSource
from pipelines.sweep.trainable import STAGE
from xmodal.run.plain_config import to_plain

SHOWN = 5


def preview_sweep(config: SweepConfig) -> dict[str, Any]:
    """Return `config` with its preset filled in, `trials`, `rungs`, and the preview of the run itself.

    Raises every error that the sweep would raise before a trial starts.
    """
    plan = outline(config)
    run = plan.config.run
    preview = None
    if plan.target == STAGE:
        pipeline = importlib.import_module(f"pipelines.preview.{type(run).__module__.rpartition('.')[2]}")
        preview = pipeline.preview_run(replace(run, run=replace(run.run, name="check")))
    points = PointSource(plan)
    drawn = (points.draw(number) for number in range(1, 1 + min(SHOWN, plan.draw_count)))
    first = [plan.baseline_trial(), *(trial for trial in drawn if trial is not None)]
    shown = replace(plan.config, run=None)
    return {
        "config": to_plain(shown),
        "space": list(plan.config.search),
        "trials": {"drawn": plan.draw_count, "in_all": plan.trial_count},
        "first": [{"kind": trial.kind, "values": to_plain(dict(trial.values))} for trial in first],
        "rungs": plan.rungs.budget_shares() if plan.config.scheduler == "asha" else [],
        "run": preview or to_plain(run),
    }
