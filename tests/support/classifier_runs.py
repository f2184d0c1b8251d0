"""Runs of the second stage as their directories look after training: trained in this process, without a cluster."""

import json
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from jobs import adapt as job
from pipelines.config.classify import Config
from pipelines.inference import evaluate_classifier
from pipelines.models.classifier import FIELDS, build_classifier, fields_of
from pipelines.stages.classify import check
from pipelines.stream.corpora import field_map
from xmodal.checkpoint import CheckpointWriter
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream.blocks import Recipe
from xmodal.data.stream.order import Plan
from xmodal.data.synthetic.clips import PITCHES, write_clips
from xmodal.encoders.classifier_files import save_classifier
from xmodal.run import MetricsLog, Run, create_run
from xmodal.training.balanced_learning import audited, balanced
from xmodal.training.engine.metric_averager import Window
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

BATCH, STEPS, LOG_EVERY = 16, 40, 4
SMALL = ("--size", "32", "--frames", "2", "--bands", "16", "--widths", "8", "16", "--seconds", "0.5")


def corpus(folder: Path, *, rows: int = 96, seed: int = 0) -> str:
    """Shapes that move and sound, in two shards."""
    write_clips(str(folder), rows, seed, seconds=0.6, size=32, rows_per_shard=rows // 2)
    return str(folder)


def config(runs: Path, where: str, *flags: str) -> Config:
    """A tiny classifier of those clips."""
    words = ["clips", "--corpus", where, "--runs", str(runs), "--classes", *PITCHES]
    words += ["--fields", "video=mp4", "audio=mp4", "label=json:shape", *SMALL, "--batch-size", str(BATCH)]
    return job.parse([*words, "--steps", str(STEPS), *flags])


def run(folder: Path, name: str, where: str, *flags: str) -> Run:
    """A run of STEPS steps, with the metrics that the loop of a rank logs and one checkpoint."""
    chosen, _ = check(replace(config(folder, where, *flags), name=name))
    opened = open_corpus(where)
    recipe = Recipe(field_map(opened, chosen.data.fields, FIELDS), fields_of(chosen.model, None))
    plan = Plan(opened.extents.rows, opened.extents.shard, chosen.seed, BATCH)
    made = create_run(str(folder), name, config=chosen, corpora={where: opened.fingerprint})
    model = build_classifier(chosen.model, chosen.seed)
    objective, space = balanced(chosen.balance, model)
    state = TrainState.create(
        objective, schedule=lambda step: 3e-3, seed=chosen.seed, space=space, audit=audited(chosen.balance, objective)
    )
    with MetricsLog(made.uri, sinks=("tensorboard",)) as log:
        epoch = list(evaluate_classifier.batches(opened, recipe, plan, plan.steps_per_epoch))  # decoded once
        _train(state, islice(cycle(epoch), STEPS), log, rows=opened.rows)
    with CheckpointWriter(made.checkpoints_uri, run_id=made.id, attempt=1) as writer:
        writer.save(STEPS, lambda directory: _save(state, chosen, made, directory))
    return made


def _train(state: TrainState, batches, log: MetricsLog, *, rows: int) -> None:
    window, began = Window(), time.perf_counter()
    for batch in batches:
        metrics = train_step(state, batch)
        window.add(metrics)
        if state.step % LOG_EVERY == 0:
            pace = LOG_EVERY * BATCH / (time.perf_counter() - began)
            began = time.perf_counter()
            seen = state.step * BATCH
            account = {"planned": seen, "delivered": seen, "quarantined": 0, "padding": 0}
            more = {f"rows/{name}": value for name, value in account.items()} | {"epoch": seen / rows}
            log.log(state.step, metrics | window.take() | more | {"samples_per_s": pace, "data_wait_share": 0.1})


def _save(state: TrainState, chosen: Config, made: Run, directory: Path) -> None:
    save_classifier(state.objective.model, chosen.model.classes, directory)
    (directory / "run.json").write_text(json.dumps(dict(made.record)))
