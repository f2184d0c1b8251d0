"""A 16-trial sweep with ASHA against 16 full runs one after another, and what a trial costs beside its steps.

A small dual encoder on synthetic scenes, learning rate and temperature swept, by retrieval on held-out pairs.
Both draw the same 16 points; the full runs are single runs, as a person would start them in a loop.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ray

from jobs.bench.figure import Figure
from pipelines import pretrain, sweep
from pipelines.config.cadence import Cadence
from pipelines.config.data import Data
from pipelines.config.model import Model
from pipelines.config.optim import Optim
from pipelines.config.pretrain import Config
from pipelines.config.sweep import Config as Sweep
from pipelines.config.validation import Validation
from xmodal.data import synthetic
from xmodal.run import read_metrics

TRIALS, STEPS, BATCH, ROWS = 16, 300, 64, 1024
METRIC = "validation/image_to_text/recall@10"
SEARCH = ("optim.learning_rate=loguniform(1e-5,1e-2)", "loss.temperature=loguniform(0.02,0.5)")


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        base = _base(scratch)
        began = time.perf_counter()
        asked = Sweep(
            run=base, search=SEARCH, metric=(METRIC,), trials=TRIALS, scheduler="asha", grace=0.15, finalists=0,
            name="asha", runs=scratch,
        )  # fmt: skip
        found = sweep.run(asked, lambda message: None)
        swept_s = time.perf_counter() - began
        ray.shutdown()
        full_s, scores = _one_after_another(found, scratch)
    detail = {"trials": TRIALS, "steps": STEPS, "batch_size": BATCH, "concurrent": found.plan.concurrent}
    yield Figure(name="sweep_asha_over_full_runs", value=swept_s / full_s, unit="ratio", reach=0.5, at_most=True,
                 detail={**detail, "asha_s": round(swept_s), "full_s": round(full_s)})  # fmt: skip
    best = max(trial.last(METRIC) or 0.0 for trial in found.trials if trial.status == "finished")
    spread = statistics.stdev(sorted(scores)[-4:])  # of the best quarter: what equals the best
    yield Figure(name="sweep_asha_best_minus_best_of_full_runs", value=best - max(scores), unit="recall@10",
                 reach=-spread, detail={**detail, "best": best, "best_of_full": max(scores)})  # fmt: skip
    yield from _overhead(found, detail)


def _base(scratch: str) -> Config:
    for name, start in (("train", 0), ("held-out", ROWS)):
        rows = ROWS if name == "train" else 256
        synthetic.write_corpus(str(Path(scratch, name)), "photo", rows, 0, start=start, rows_per_shard=256, size=64)
    return Config(
        name="run",
        runs=scratch,
        data=Data(corpus=(str(Path(scratch, "train")),)),
        model=Model(architecture="vit-tiny", vocab_size=2000),
        optim=Optim(batch_size=BATCH, steps=STEPS, learning_rate=1e-3),
        cadence=Cadence(log_every=15, checkpoint_every=STEPS // 2, sinks=()),
        validation=Validation(corpus=str(Path(scratch, "held-out")), every=15, rows=256),
    )


def _one_after_another(found: sweep.Result, scratch: str) -> tuple[float, list[float]]:
    """Seconds and scores of the same points as whole runs; the baseline is not among the sixteen."""
    began, scores = time.perf_counter(), []
    for trial in found.trials[1 : TRIALS + 1]:
        config = found.plan.strategy.make(trial.values, trial.seed)
        ended = pretrain.run(replace(config, name=f"full-{trial.number}", runs=scratch))
        scores.append(float(read_metrics(ended.run.uri)[-1][METRIC]))
    return time.perf_counter() - began, scores


def _overhead(found: sweep.Result, detail: dict) -> Iterator[Figure]:
    """Seconds of a finished trial outside its steps and validations; where they go."""
    outside, first, ingest = [], [], []
    for trial in found.trials:
        if trial.status != "finished":
            continue
        lines = read_metrics(f"{found.uri}/trials/{trial.name}")
        steps = sum(line["seconds_per_step"] for line in lines) * STEPS / len(lines)
        validated = sum(line.get("validation/seconds", 0.0) for line in lines)
        outside.append(trial.seconds - steps - validated)
        first.append(trial.ready)
        ingest.append(lines[0]["first_batch_s"])
    where = {"to_first_report_s": round(statistics.median(first), 1), "first_batch_s": [round(s, 1) for s in ingest]}
    yield Figure(name="sweep_overhead_of_a_trial", value=statistics.median(outside), unit="s", reach=25, at_most=True,
                 repeats=len(outside), detail={**detail, **where})  # fmt: skip
    if len(ingest) > 1:
        ratio = ingest[0] / statistics.median(ingest[1:])
        yield Figure(
            name="sweep_first_batch_of_first_over_later_trials", value=ratio, unit="ratio", reach=3, detail=detail
        )
