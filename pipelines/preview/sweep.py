"""Preview a sweep: its space, its first trials, its rungs, and the run that is swept."""

import importlib
from dataclasses import replace
from typing import Any

from pipelines.config.sweep import SweepConfig
from pipelines.sweep.plan import PIPELINE, outline
from xmodal.run.plain_config import to_plain
from xmodal.search.trial import Trial

SHOWN = 5


def preview_sweep(config: SweepConfig) -> dict[str, Any]:
    """Return `config` with its preset filled in, `trials`, `rungs`, and the preview of the run itself.

    Raises every error that the sweep would raise before a trial starts.
    """
    plan = outline(config)
    run = plan.config.run
    preview = None
    if plan.target == PIPELINE:
        pipeline = importlib.import_module(f"pipelines.preview.{type(run).__module__.rpartition('.')[2]}")
        preview = pipeline.preview_run(replace(run, run=replace(run.run, name="check")))
    drawn: list[Trial] = []
    while len(drawn) <= min(SHOWN, plan.strategy.wanted) and (trial := plan.strategy.next(drawn)):
        drawn.append(replace(trial, number=len(drawn)))
    shown = replace(plan.config, run=None)
    return {
        "config": to_plain(shown),
        "space": list(plan.config.search),
        "trials": {"drawn": plan.strategy.wanted, "in_all": plan.strategy.planned},
        "first": [{"kind": trial.kind, "values": to_plain(dict(trial.values))} for trial in drawn],
        "rungs": plan.strategy.rungs.budget_shares() if plan.config.scheduler == "asha" else [],
        "run": preview or to_plain(run),
    }
