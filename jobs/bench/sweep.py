"""A 16-trial sweep with ASHA against 16 full runs one after another, the cost of a trial, and plain Ray Tune.

A small dual encoder on synthetic scenes, learning rate and temperature swept, by retrieval on held-out pairs. Both draw
the same 16 points; the full runs are single runs in one Ray, as a person would start them in a loop. The cost of a
trial outside its steps is divided by where it arises. Ingest is an epoch of photograph-sized scenes through the stream,
as a sweep's first trial reads it and as later ones do. Plain Ray Tune: `jobs.bench.plain_tune`. The driver's memory
with 200 trials to run: `jobs.bench.queued_trials`.
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

from jobs.bench.measurement import Measurement, median_measurement
from pipelines import sweep
from pipelines.config.architectures import model_config
from pipelines.config.data import DataConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.config.sweep import SweepConfig
from pipelines.config.validation import ValidationConfig
from pipelines.runtime import cluster
from pipelines.stages import pretrain
from pipelines.stream import corpora, ingest
from xmodal import checkpoint
from xmodal.data import synthetic
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import open_corpus
from xmodal.run import read_metrics
from xmodal.search.trial import FINISHED, STOPPED, Trial

TRIALS, STEPS, BATCH, ROWS, VALIDATIONS = 16, 120, 64, 1024, 6
METRIC = "validation/image_to_text/recall@10"
SEARCH = ("optim.learning_rate=loguniform(1e-5,1e-2)", "loss.temperature=loguniform(0.02,0.5)")
PHOTOS, SIZE, SIDE = 3072, 320, 224  # rows of the ingest, side of its images and of the model's input
HELD_OUT, AGAIN = 128, 3  # rows that a trial is evaluated on; later trials whose ingest is measured
LONGEST_S = 150  # after which plain Ray Tune, which may never end, is killed


def run() -> Iterator[Measurement]:
    """Yield the overhead of a trial, the sweep against full runs, its ingest, and plain Ray Tune."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # no cache of an earlier run of the benchmark
        base = _base_config(scratch)
        started = time.perf_counter()
        config = SweepConfig(
            run=base, search=SEARCH, metric=(METRIC,), trials=TRIALS, scheduler="asha", grace=0.15, finalists=0,
            sweep=RunOptions(name="asha", runs=scratch),
        )  # fmt: skip
        result = sweep.run(config, lambda message: None)
        swept_s = time.perf_counter() - started
        yield from _overhead(result)
        full_s, scores = _run_one_after_another(result, scratch)
        yield from _compare(result, swept_s, full_s, scores)
        yield from _ingest(scratch)
        ray.shutdown()
        yield from _plain_tune(result, scratch)
        yield _queued_trials(scratch)


def _base_config(scratch: str) -> PretrainConfig:
    for name, start in (("train", 0), ("held-out", ROWS)):
        rows = ROWS if name == "train" else HELD_OUT
        synthetic.write_corpus(str(Path(scratch, name)), "photo", rows, 0, start=start, rows_per_shard=256, size=64)
    every = STEPS // VALIDATIONS
    return PretrainConfig(
        run=RunOptions(name="run", runs=scratch),
        data=DataConfig(corpus=(str(Path(scratch, "train")),)),
        model=model_config("vit-tiny", vocab_size=2000),
        optim=OptimizerConfig(batch_size=BATCH, steps=STEPS, learning_rate=1e-3),
        logging=LoggingConfig(log_every=every, sinks=()),
        checkpoints=CheckpointConfig(checkpoint_every=STEPS // 2),
        validation=ValidationConfig(corpus=str(Path(scratch, "held-out")), every=every, rows=HELD_OUT),
    )


def _run_one_after_another(result: sweep.SweepResult, scratch: str) -> tuple[float, list[float]]:
    """Return seconds and scores of the same points as whole runs; the baseline is not among the sixteen."""
    started, scores = time.perf_counter(), []
    for trial in result.trials[1 : TRIALS + 1]:
        config = result.plan.make(trial.values, trial.seed)
        training = pretrain.run(replace(config, run=RunOptions(name=f"full-{trial.number}", runs=scratch)))
        scores.append(float(read_metrics(training.run.uri)[-1][METRIC]))
    return time.perf_counter() - started, scores


def _compare(
    result: sweep.SweepResult, swept_s: float, full_s: float, scores: Sequence[float]
) -> Iterator[Measurement]:
    """Yield the time of the sweep over that of the full runs, and the difference of their best scores."""
    states = {name: sum(t.status == name for t in result.trials) for name in (FINISHED, STOPPED)}
    detail = {"trials": TRIALS, "steps": STEPS, "batch_size": BATCH, "concurrent": result.plan.concurrent, **states}
    yield Measurement(
        name="sweep_asha_over_full_runs",
        value=swept_s / full_s,
        unit="ratio",
        target=0.46,
        lower_is_better=True,
        detail={**detail, "asha_s": round(swept_s), "full_s": round(full_s)},
    )
    best = max(trial.last(METRIC) or 0.0 for trial in result.trials if trial.status == FINISHED)
    spread = math.sqrt(max(scores) * (1 - max(scores)) / HELD_OUT)  # standard error of a share of so many rows
    yield Measurement(
        name="sweep_asha_best_minus_best_of_full_runs",
        value=best - max(scores),
        unit="recall@10",
        target=-spread,
        detail={**detail, "best": best, "best_of_full": max(scores)},
    )


def _overhead(result: sweep.SweepResult) -> Iterator[Measurement]:
    """Yield seconds of a finished trial outside its steps and validations, and where they went."""
    finished_trials = [trial for trial in result.trials if trial.status == FINISHED]
    parts_by_trial = [_overhead_parts(trial, f"{result.uri}/trials/{trial.name}") for trial in finished_trials]
    medians = {name: round(statistics.median(parts[name] for parts in parts_by_trial), 1) for name in parts_by_trial[0]}
    yield median_measurement(
        [sum(parts.values()) for parts in parts_by_trial],
        name="sweep_overhead_of_a_trial",
        unit="s",
        target=20,
        lower_is_better=True,
        detail={"concurrent": result.plan.concurrent, **medians},
    )


def _overhead_parts(trial: Trial, uri: str) -> dict[str, float]:
    """Return the seconds of a trial outside its steps by where they went."""
    lines = read_metrics(uri)
    run_started = Path(uri, "run.json").stat().st_mtime  # the run is checked, and its corpora are open
    first = lines[0]["time"] - lines[0]["seconds_per_step"] * lines[0]["step"] - lines[0].get("validation/seconds", 0.0)
    return {
        "process_and_imports_s": run_started - trial.started,
        "workers_and_first_batch_s": first - run_started,
        "last_step_to_the_end_s": trial.started + trial.seconds - lines[-1]["time"],
    }


def _ingest(scratch: str) -> Iterator[Measurement]:
    """Yield the rate of an epoch in later trials over that in the first, from the first batch to the last."""
    uri = str(Path(scratch, "photos"))
    synthetic.write_corpus(uri, "photo", PHOTOS, 0, rows_per_shard=128, size=SIZE)
    cluster.connect(ResourceConfig(address="local"))
    first, *later = (_read_epoch(uri, scratch) for _ in range(1 + AGAIN))
    later_median = sorted(later)[AGAIN // 2]
    yield Measurement(
        name="sweep_ingest_of_second_over_first_trial",
        value=later_median[0] / first[0],
        unit="ratio",
        target=3,
        detail={
            "rows": PHOTOS,
            "first_rows_per_s": round(first[0]),
            "second_rows_per_s": round(later_median[0]),
            "first_s": round(first[1], 1),
            "second_s": round(later_median[1], 1),
        },
    )


def _read_epoch(uri: str, scratch: str) -> tuple[float, float]:
    """Return rows a second after the first batch, and seconds in all."""
    data, opened = DataConfig(corpus=(uri,), cache=str(Path(scratch, "blocks")), rows_per_task=512), [open_corpus(uri)]
    maps = [field_maps.field_map(opened[0], (), ("image", "text"))]
    fields = (
        ImageField(size=SIDE, augment=Augment()),
        TextField(tokenizer_json=train_tokenizer(["a red circle", "a blue square"], 520), length=32),
    )
    streams = corpora.build_streams(data, opened, maps, fields, batch_size=BATCH, workers=[1], seed=0)
    started = time.perf_counter()
    batches = ingest.step_batches(
        streams, 0, PHOTOS // BATCH, rank=0, world_size=1, share=lambda value: value, reserved={}
    )  # fmt: skip
    rows = len(next(batches).batch)
    first_batch_at = time.perf_counter()
    later_rows = sum(len(batch.batch) for batch in batches)
    ended_at = time.perf_counter()
    assert rows + later_rows == PHOTOS
    return later_rows / (ended_at - first_batch_at), ended_at - started


def _queued_trials(scratch: str) -> Measurement:
    """Return the largest memory of a driver that has 200 trials to run."""
    answer = Path(scratch, "queued.json")
    subprocess.run(
        [sys.executable, "-m", "jobs.bench.queued_trials", scratch, str(answer)], check=True, stderr=subprocess.DEVNULL
    )
    record = json.loads(answer.read_text())
    return Measurement(
        name="sweep_driver_memory_for_200_trials",
        value=record["largest_mib"],
        unit="MiB",
        target=1024,
        lower_is_better=True,
        detail={name: round(value) for name, value in record.items()},
    )


def _plain_tune(result: sweep.SweepResult, scratch: str) -> Iterator[Measurement]:
    """Yield the overhead of plain Ray Tune and what its stopped trials leave behind; NaN where it did not end."""
    files = checkpoint.resolve(f"{result.uri}/trials/{result.trials[0].name}").uri
    answer = Path(scratch, "plain.json")
    words = [sys.executable, "-m", "jobs.bench.plain_tune", files, str(Path(scratch, "train")), str(answer)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
    record = json.loads(answer.read_text()) if answer.exists() else {}
    overhead = record.get("outside_s") or [float("nan")]
    yield median_measurement(overhead, name="sweep_plain_tune_overhead_of_a_trial", unit="s", detail={"at_a_time": 1})
    groups_left = float(record.get("groups_left", "nan"))
    yield Measurement(name="sweep_plain_tune_placement_groups_left", value=groups_left, unit="groups",
                 detail={"stopped": record.get("stopped"), "ended": bool(record)})  # fmt: skip
