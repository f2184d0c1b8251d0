"""A 16-trial sweep with ASHA against 16 full runs one after another, what a trial costs, and plain Ray Tune beside it.

A small dual encoder on synthetic scenes, learning rate and temperature swept, by retrieval on held-out pairs. Both
draw the same 16 points; the full runs are single runs in one Ray, as a person would start them in a loop. What a trial
costs beside its steps is told by where it goes. Ingest is an epoch of photograph-sized scenes through the stream, as a
sweep's first trial reads it and as later ones do. Plain Ray Tune: `jobs.bench.plain_tune`.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import ray

from jobs.bench.measurement import Figure, median_figure
from pipelines import sweep
from pipelines.config.data import Data
from pipelines.config.logging import Cadence
from pipelines.config.model import Model
from pipelines.config.optimizer import Optim
from pipelines.config.pretrain import Config
from pipelines.config.resources import Resources
from pipelines.config.sweep import Config as Sweep
from pipelines.config.validation import Validation
from pipelines.runtime import cluster
from pipelines.stages import pretrain
from pipelines.stream import corpora, ingest
from xmodal import checkpoint
from xmodal.data import synthetic
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index.corpus import open_corpus
from xmodal.run import read_metrics
from xmodal.search.trial import FINISHED, STOPPED, Trial

TRIALS, STEPS, BATCH, ROWS, LOOKS = 16, 120, 64, 1024, 6
METRIC = "validation/image_to_text/recall@10"
SEARCH = ("optim.learning_rate=loguniform(1e-5,1e-2)", "loss.temperature=loguniform(0.02,0.5)")
PHOTOS, SIZE, SIDE = 3072, 320, 224  # rows of the ingest, side of its pictures and of what the model is shown
HELD_OUT, AGAIN = 128, 3  # rows that a trial is judged by; later trials whose ingest is measured
LONGEST_S = 150  # of plain Ray Tune, which may never end


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # nothing that an earlier run of the benchmark kept
        base = _base(scratch)
        began = time.perf_counter()
        asked = Sweep(
            run=base, search=SEARCH, metric=(METRIC,), trials=TRIALS, scheduler="asha", grace=0.15, finalists=0,
            name="asha", runs=scratch,
        )  # fmt: skip
        found = sweep.run(asked, lambda message: None)
        swept_s = time.perf_counter() - began
        yield from _overhead(found)
        full_s, scores = _one_after_another(found, scratch)
        yield from _against(found, swept_s, full_s, scores)
        yield from _ingest(scratch)
        ray.shutdown()
        yield from _plain_tune(found, scratch)


def _base(scratch: str) -> Config:
    for name, start in (("train", 0), ("held-out", ROWS)):
        rows = ROWS if name == "train" else HELD_OUT
        synthetic.write_corpus(str(Path(scratch, name)), "photo", rows, 0, start=start, rows_per_shard=256, size=64)
    every = STEPS // LOOKS
    return Config(
        name="run",
        runs=scratch,
        data=Data(corpus=(str(Path(scratch, "train")),)),
        model=Model(architecture="vit-tiny", vocab_size=2000),
        optim=Optim(batch_size=BATCH, steps=STEPS, learning_rate=1e-3),
        cadence=Cadence(log_every=every, checkpoint_every=STEPS // 2, sinks=()),
        validation=Validation(corpus=str(Path(scratch, "held-out")), every=every, rows=HELD_OUT),
    )


def _one_after_another(found: sweep.Result, scratch: str) -> tuple[float, list[float]]:
    """Seconds and scores of the same points as whole runs; the baseline is not among the sixteen."""
    began, scores = time.perf_counter(), []
    for trial in found.trials[1 : TRIALS + 1]:
        config = found.plan.strategy.make(trial.values, trial.seed)
        ended = pretrain.run(replace(config, name=f"full-{trial.number}", runs=scratch))
        scores.append(float(read_metrics(ended.run.uri)[-1][METRIC]))
    return time.perf_counter() - began, scores


def _against(found: sweep.Result, swept_s: float, full_s: float, scores: Sequence[float]) -> Iterator[Figure]:
    states = {name: sum(t.status == name for t in found.trials) for name in (FINISHED, STOPPED)}
    detail = {"trials": TRIALS, "steps": STEPS, "batch_size": BATCH, "concurrent": found.plan.concurrent, **states}
    yield Figure(name="sweep_asha_over_full_runs", value=swept_s / full_s, unit="ratio", reach=0.5, at_most=True,
                 detail={**detail, "asha_s": round(swept_s), "full_s": round(full_s)})  # fmt: skip
    best = max(trial.last(METRIC) or 0.0 for trial in found.trials if trial.status == FINISHED)
    spread = math.sqrt(max(scores) * (1 - max(scores)) / HELD_OUT)  # of a share that is counted on so many rows
    yield Figure(name="sweep_asha_best_minus_best_of_full_runs", value=best - max(scores), unit="recall@10",
                 reach=-spread, detail={**detail, "best": best, "best_of_full": max(scores)})  # fmt: skip


def _overhead(found: sweep.Result) -> Iterator[Figure]:
    """Seconds of a trial that ran to its end outside its steps and validations, and where they went."""
    ended = [trial for trial in found.trials if trial.status == FINISHED]
    parts = [_parts(trial, f"{found.uri}/trials/{trial.name}") for trial in ended]
    where = {name: round(statistics.median(one[name] for one in parts), 1) for name in parts[0]}
    yield median_figure([sum(one.values()) for one in parts], name="sweep_overhead_of_a_trial", unit="s", reach=25,
                        at_most=True, detail={"concurrent": found.plan.concurrent, **where})  # fmt: skip


def _parts(trial: Trial, uri: str) -> dict[str, float]:
    lines = read_metrics(uri)
    begun = Path(uri, "run.json").stat().st_mtime  # the run is checked, and its corpora are open
    first = lines[0]["time"] - lines[0]["seconds_per_step"] * lines[0]["step"] - lines[0].get("validation/seconds", 0.0)
    return {
        "process_and_imports_s": begun - trial.started,
        "workers_and_first_batch_s": first - begun,
        "last_step_to_the_end_s": trial.started + trial.seconds - lines[-1]["time"],
    }


def _ingest(scratch: str) -> Iterator[Figure]:
    """Rows a second of one epoch that a first trial and later ones read, from the first batch to the last."""
    uri = str(Path(scratch, "photos"))
    synthetic.write_corpus(uri, "photo", PHOTOS, 0, rows_per_shard=128, size=SIZE)
    cluster.connect(Resources(address="local"))
    first, *later = (_epoch(uri, scratch) for _ in range(1 + AGAIN))
    second = sorted(later)[AGAIN // 2]
    yield Figure(name="sweep_ingest_of_second_over_first_trial", value=second[0] / first[0], unit="ratio", reach=3,
                 detail={"rows": PHOTOS, "first_rows_per_s": round(first[0]), "second_rows_per_s": round(second[0]),
                         "first_s": round(first[1], 1), "second_s": round(second[1], 1)})  # fmt: skip


def _epoch(uri: str, scratch: str) -> tuple[float, float]:
    """Rows a second behind the first batch, and seconds in all."""
    data, opened = Data(corpus=(uri,), cache=str(Path(scratch, "blocks")), rows_per_task=512), [open_corpus(uri)]
    maps = [corpora.field_map(opened[0], (), ("image", "text"))]
    fields = (
        ImageField(size=SIDE, augment=Augment()),
        TextField(tokenizer_json=train_tokenizer(["a red circle", "a blue square"], 520), length=32),
    )
    streams = corpora.streams(data, opened, maps, fields, batch_size=BATCH, workers=[1], seed=0)
    began = time.perf_counter()
    delivered = ingest.deliver(
        streams, 0, PHOTOS // BATCH, rank=0, world_size=1, share=lambda value: value, reserved={}
    )  # fmt: skip
    rows = len(next(delivered).batch)
    clock = time.perf_counter()
    later = sum(len(one.batch) for one in delivered)
    ended = time.perf_counter()
    assert rows + later == PHOTOS
    return later / (ended - clock), ended - began


def _plain_tune(found: sweep.Result, scratch: str) -> Iterator[Figure]:
    """The opponent: its overhead, and what stopped trials leave behind. NaN where it did not end."""
    files = checkpoint.resolve(f"{found.uri}/trials/{found.trials[0].name}").uri
    answer = Path(scratch, "plain.json")
    words = [sys.executable, "-m", "jobs.bench.plain_tune", files, str(Path(scratch, "train")), str(answer)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
    told = json.loads(answer.read_text()) if answer.exists() else {}
    outside = told.get("outside_s") or [float("nan")]
    yield median_figure(outside, name="sweep_plain_tune_overhead_of_a_trial", unit="s", detail={"at_a_time": 1})
    left = float(told.get("groups_left", "nan"))
    yield Figure(name="sweep_plain_tune_placement_groups_left", value=left, unit="groups",
                 detail={"stopped": told.get("stopped"), "ended": bool(told)})  # fmt: skip
