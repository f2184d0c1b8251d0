"""Trials that need no training: a planted optimum, checkpoints that can be copied, and every kind of trouble."""

import json
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions
from pipelines.sweep.trial_process import report_again
from xmodal import checkpoint, storage
from xmodal.errors import CheckpointError
from xmodal.run import MetricsLog, claim_attempt, create_run, open_run

BEST = 1e-3


@dataclass(frozen=True, kw_only=True)
class Trouble:
    kind: Literal["none", "raises", "raises_once", "hangs", "killed", "memory"] = "none"
    pause_s: float = 0.0  # between two steps


@dataclass(frozen=True, kw_only=True)
class Config:
    TARGET: ClassVar[str] = "support.fake_trials:carry_out"
    run: RunOptions = field(default_factory=lambda: RunOptions(name="a"))
    seed: int = 0
    optim: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(steps=12, learning_rate=1e-4))
    logging: LoggingConfig = field(default_factory=lambda: LoggingConfig(log_every=1))
    checkpoints: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(checkpoint_every=3))
    trouble: Trouble = field(default_factory=Trouble)


def gain(rate: float) -> float:
    """How much a step is worth: at most 1, at a learning rate of `BEST`."""
    import math

    return 1.0 - abs(math.log10(rate / BEST))


def carry_out(config, say):
    runs, name = config.run.runs, config.run.name
    uri = storage.join(runs, name)
    run = open_run(runs, name) if config.run.resume else create_run(runs, name, config=config)
    attempt = claim_attempt(run.uri)
    step, weight, lineage = 0, 0.0, []
    try:
        saved = json.loads((Path(checkpoint.resolve(uri).uri) / "weights.json").read_text())
        step, weight, lineage = saved["step"], saved["weight"], saved["lineage"]
    except CheckpointError:
        pass
    report_again(uri, config.optim.steps, say)
    log = MetricsLog(uri, after_step=step or None, sinks=())
    while step < config.optim.steps:
        step, weight = step + 1, weight + gain(config.optim.learning_rate) + 0.01 * config.seed
        _trouble(config.trouble.kind, step, attempt)
        metrics = {"score": weight, "oracle/accuracy": -weight}
        log.log(step, metrics)
        say({"kind": "report", "step": step, "steps": config.optim.steps, "metrics": metrics})
        if step % config.checkpoints.checkpoint_every == 0 or step == config.optim.steps:
            log.sync()  # before the checkpoint, as training does: whoever resumes from it finds the figures up to it
            with tempfile.TemporaryDirectory() as folder:
                saved = {"step": step, "weight": weight, "lineage": [*lineage, [config.run.name, step, weight]]}
                lineage = saved["lineage"]
                Path(folder, "weights.json").write_text(json.dumps(saved))
                checkpoint.commit(Path(folder), run.checkpoints_uri, run_id=run.id, attempt=attempt, step=step)
        time.sleep(config.trouble.pause_s)


def _trouble(kind, step, attempt):
    if step < 4:
        return
    if kind == "raises" or (kind == "raises_once" and attempt == 1):
        raise RuntimeError("the planted error")
    if kind == "hangs":
        time.sleep(600)
    if kind == "memory":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        bytearray(8 << 30)
    if kind == "killed":  # as by the kernel's own hand when memory is over
        os.kill(os.getpid(), signal.SIGKILL)


def lineage(uri):
    """[trial, step, weight] of each checkpoint behind the newest one."""
    return json.loads((Path(checkpoint.resolve(uri).uri) / "weights.json").read_text())["lineage"]
