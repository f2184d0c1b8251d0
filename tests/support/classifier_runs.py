"""Train small audio-video classifiers in this process, without a cluster, and write the directories of their runs."""

import json
import time
from itertools import cycle, islice
from pathlib import Path

from jobs import classify as job
from pipelines.config.classify import ClassifyConfig
from pipelines.inference import evaluate_classifier
from pipelines.models.classifier import build_classifier, decoded_fields
from pipelines.stages.classify import check
from support.clip_shards import write_clips
from xmodal.checkpoint import CheckpointWriter
from xmodal.data.index.corpus import open_corpus
from xmodal.data.index.field_maps import field_map
from xmodal.data.stream.blocks import RowDecoder
from xmodal.data.stream.order import StreamPlan
from xmodal.data.synthetic.clips import PITCHES
from xmodal.encoders.classifier_files import save_classifier
from xmodal.run import MetricsLog, Run, create_run
from xmodal.training.balanced_learning import build_audit, build_objective
from xmodal.training.engine.metric_averager import MetricAverager
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step

BATCH, STEPS, LOG_EVERY = 16, 40, 4
SMALL_MODEL = ("--size", "32", "--frames", "2", "--bands", "16", "--widths", "8", "16", "--seconds", "0.5")


def corpus(folder: Path, *, rows: int = 96, seed: int = 0) -> str:
    """Write a corpus of clips of moving shapes with tones, in two shards; return its folder."""
    write_clips(str(folder), rows, seed, seconds=0.6, size=32, rows_per_shard=rows // 2)
    return str(folder)


def config(runs: Path, corpus_uri: str, *flags: str) -> ClassifyConfig:
    """Return the configuration of a tiny classifier of those clips."""
    words = ["clips", "--corpus", corpus_uri, "--runs", str(runs), "--classes", *PITCHES]
    words += ["--fields", "video=mp4", "audio=mp4", "label=json:shape", *SMALL_MODEL, "--batch-size", str(BATCH)]
    return job.parse([*words, "--steps", str(STEPS), *flags])


def run(folder: Path, name: str, corpus_uri: str, *flags: str) -> Run:
    """Train for STEPS steps; write the metrics that a rank's training loop logs, and one checkpoint."""
    checked, _ = check(config(folder, corpus_uri, *flags, "--name", name))
    opened = open_corpus(corpus_uri)
    mapping = field_map(opened, checked.data.fields, checked.model.fields)
    decoder = RowDecoder(mapping, decoded_fields(checked.model, None, None))
    plan = StreamPlan(opened.extents.rows, opened.extents.shard, checked.seed, BATCH)
    created = create_run(str(folder), name, config=checked, corpora={corpus_uri: opened.fingerprint})
    model = build_classifier(checked.model, checked.seed)
    objective, space = build_objective(checked.balance, model)
    state = TrainState.create(
        objective,
        schedule=lambda step: 3e-3,
        seed=checked.seed,
        space=space,
        audit=build_audit(checked.balance, objective),
    )
    with MetricsLog(created.uri, sinks=("tensorboard",)) as log:
        epoch = list(evaluate_classifier.batches(opened, decoder, plan, plan.steps_per_epoch))  # decoded once
        _train(state, islice(cycle(epoch), STEPS), log, rows=opened.rows)
    with CheckpointWriter(created.checkpoints_uri, run_id=created.id, attempt=1) as writer:
        writer.save(STEPS, lambda directory: _save(state, checked, created, directory))
    return created


def _train(state: TrainState, batches, log: MetricsLog, *, rows: int) -> None:
    averager, began = MetricAverager(), time.perf_counter()
    for batch in batches:
        metrics = train_step(state, batch)
        averager.add(metrics)
        if state.step % LOG_EVERY == 0:
            samples_per_s = LOG_EVERY * BATCH / (time.perf_counter() - began)
            began = time.perf_counter()
            done = state.step * BATCH
            counts = {"rows/planned": done, "rows/delivered": done, "rows/quarantined": 0, "rows/padding": 0}
            pace = {"epoch": done / rows, "samples_per_s": samples_per_s, "data_wait_share": 0.1}
            log.log(state.step, metrics | averager.pop_means() | counts | pace)


def _save(state: TrainState, checked: ClassifyConfig, created: Run, directory: Path) -> None:
    save_classifier(state.objective.model, checked.model.classes, directory)
    (directory / "run.json").write_text(json.dumps(dict(created.record)))
