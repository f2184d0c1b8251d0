"""Recall of 300 unseen emoji by name and keywords after a short pretraining on icons and emoji.

Trained on 13,055 icons with captions and 1,136 emoji with names and keywords, on 2 Ray Train workers; tested on the 300
emoji whose concepts are in no training data, the query being the name and all keywords. The opponent is a linear one,
CCA on hand-made features, whose text-to-image recall is the target. XMODAL_BENCH_STEPS shortens the run, to see that it
works.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.bench.icon_shards import IconCorpora, write_corpora
from jobs.bench.measurement import Measurement
from jobs.presets import PRESETS
from jobs.progress_reporter import ProgressReporter
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.run import RunOptions
from pipelines.inference import evaluate
from pipelines.inference.evaluation_records import Evaluation
from pipelines.runtime.cluster import ResourceConfig
from pipelines.stages import pretrain
from pipelines.stream.corpora import DataConfig

NEEDS = ("icons/train.parquet", "emoji/noto/*.tar")
PRESET = "hog-tiny"
STEPS = 400
BATCH_SIZE = 256
WEIGHTS = (1.0, 1.0)  # of icons and emoji; in proportion to their rows, emoji would be a twelfth of a batch
VOCABULARY = 4096
SEED = 0
TARGETS = {"text_to_image_r10": 0.55}  # of CCA


def run(folder: Path) -> Iterator[Measurement]:
    """Yield recall and median rank in both directions, then what the training took; `folder` holds the data sets."""
    steps = int(os.environ.get("XMODAL_BENCH_STEPS") or STEPS)
    with TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        yield from measure(folder, Path(scratch), steps)


def measure(root: Path, scratch: Path, steps: int, workers: int = 2) -> Iterator[Measurement]:
    """Yield the measurements of one run of `steps` steps, which writes everything into `scratch`."""
    corpora = write_corpora(root, str(scratch))
    config = pretrain_config(corpora, str(scratch / "runs"), steps, workers)
    started = time.perf_counter()
    result = pretrain.run(config, ProgressReporter("icons"))
    minutes = (time.perf_counter() - started) / 60
    evaluation = evaluate.run(evaluate.EvaluateConfig(checkpoint=result.checkpoint, corpus=corpora.unseen))
    pairs_seen = result.step * config.optim.batch_size
    detail = {"preset": PRESET, "steps": result.step, "workers": workers, "seed": SEED}
    yield from recall_measurements("text_to_image", evaluation, detail)
    yield from recall_measurements("image_to_text", evaluation, detail)
    yield Measurement(
        name="icons.train_time", value=minutes, unit="min", target=20, lower_is_better=True, detail=detail
    )
    rows = {"icons": corpora.icon_rows, "emoji": corpora.emoji_rows}
    yield Measurement(name="icons.samples_seen", value=pairs_seen, unit="pairs", detail={**detail, "rows": rows})


def recall_measurements(direction: str, evaluation: Evaluation, detail: Mapping[str, object]) -> Iterator[Measurement]:
    """Yield R@10, R@5, R@1 and the median rank of one direction, each with its value by chance."""
    search = evaluation.searches[direction]
    detail = {**detail, "items": search.items}
    for k in (10, 5, 1):
        name, chance = f"{direction}_r{k}", round(search.chance_recall[k], 4)
        yield Measurement(
            name=f"icons.{name}",
            value=search.recall[k],
            unit="share of queries",
            target=TARGETS.get(name),
            detail={**detail, "chance": chance},
        )
    chance = search.chance_median_rank
    yield Measurement(
        name=f"icons.{direction}_median_rank",
        value=search.median_rank,
        unit="rank",
        lower_is_better=True,
        detail={**detail, "chance": chance},
    )


def pretrain_config(corpora: IconCorpora, runs: str, steps: int, workers: int) -> pretrain.PretrainConfig:
    """Return the configuration of the preset on a mixture of both corpora."""
    preset = PRESETS[PRESET]
    return pretrain.PretrainConfig(
        run=RunOptions(name="icons", runs=runs),
        seed=SEED,
        data=DataConfig(corpus=(corpora.icons, corpora.emoji), weights=WEIGHTS),
        model=replace(preset.model, vocab_size=VOCABULARY),
        augment=preset.augment,
        optim=replace(preset.optim, batch_size=BATCH_SIZE, steps=steps, weight_decay=0.3, precision="bf16"),
        logging=LoggingConfig(log_every=10, sinks=()),
        checkpoints=CheckpointConfig(checkpoint_every=steps),
        resources=ResourceConfig(workers=workers),
    )
