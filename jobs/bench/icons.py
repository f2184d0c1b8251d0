"""Icons and emoji go in; how well 300 unseen emoji are found by name and keywords after a short run comes out.

Trained on 13,055 icons with captions and 1,136 emoji with names and keywords, on 2 Ray Train workers; tested on the
300 emoji whose concepts are in no training data, the query being the name and all keywords. The opponent is a linear
one, CCA on hand-made features, whose text-to-image recall is the target. The data (folders `icons` and `emoji/noto`)
lie where XMODAL_BENCH_DATA says; XMODAL_BENCH_STEPS shortens the run, to see that it works.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.bench.icon_shards import Corpora, data_root, write_corpora
from jobs.bench.measurement import Figure
from jobs.presets import PRESETS
from jobs.progress_reporter import Narrator
from pipelines.inference import evaluate
from pipelines.inference.evaluation_records import Evaluation
from pipelines.loop.train import Cadence
from pipelines.runtime.cluster import Resources
from pipelines.stages import pretrain
from pipelines.stream.corpora import Data

PRESET = "hog-tiny"
STEPS = 400
BATCH_SIZE = 256
WEIGHTS = (1.0, 1.0)  # icons, emoji; by their numbers emoji would be a twelfth of a batch
VOCABULARY = 4096
SEED = 0
REACH = {"text_to_image_r10": 0.55}  # of CCA


def run() -> Iterator[Figure]:
    """Recall and median rank both ways, then what the training took."""
    root, steps = data_root(), int(os.environ.get("XMODAL_BENCH_STEPS") or STEPS)
    with TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        yield from measure(root, Path(scratch), steps)


def measure(root: Path, scratch: Path, steps: int, workers: int = 2) -> Iterator[Figure]:
    """The figures of one run of `steps` steps that leaves everything in `scratch`."""
    corpora = write_corpora(root, str(scratch))
    config = settings(corpora, str(scratch / "runs"), steps, workers)
    began = time.perf_counter()
    result = pretrain.run(config, Narrator("icons"))
    minutes = (time.perf_counter() - began) / 60
    found = evaluate.run(evaluate.Config(checkpoint=result.checkpoint, corpus=corpora.unseen))
    seen = result.step * config.optim.batch_size
    detail = {"preset": PRESET, "steps": result.step, "workers": workers, "seed": SEED}
    yield from recalls("text_to_image", found, detail)
    yield from recalls("image_to_text", found, detail)
    yield Figure(name="icons.train_time", value=minutes, unit="min", reach=20, at_most=True, detail=detail)
    rows = {"icons": corpora.icon_rows, "emoji": corpora.emoji_rows}
    yield Figure(name="icons.samples_seen", value=seen, unit="pairs", detail={**detail, "rows": rows})


def recalls(direction: str, found: Evaluation, detail: dict[str, Any]) -> Iterator[Figure]:
    """R@10, R@5, R@1 and the median rank of one direction, chance beside each."""
    side = found.searches[direction]
    detail = {**detail, "items": side.items}
    for k in (10, 5, 1):
        name, chance = f"{direction}_r{k}", round(side.chance_recall[k], 4)
        yield Figure(
            name=f"icons.{name}",
            value=side.recall[k],
            unit="share of queries",
            reach=REACH.get(name),
            detail={**detail, "chance": chance},
        )
    chance = side.chance_median_rank
    yield Figure(
        name=f"icons.{direction}_median_rank",
        value=side.median_rank,
        unit="rank",
        at_most=True,
        detail={**detail, "chance": chance},
    )


def settings(corpora: Corpora, runs: str, steps: int, workers: int) -> pretrain.Config:
    """The preset on a mixture of both corpora."""
    preset = PRESETS[PRESET]
    return pretrain.Config(
        name="icons",
        runs=runs,
        seed=SEED,
        data=Data(corpus=(corpora.icons, corpora.emoji), weights=WEIGHTS),
        model=replace(preset.model, vocab_size=VOCABULARY),
        augment=preset.augment,
        optim=replace(preset.optim, batch_size=BATCH_SIZE, steps=steps, weight_decay=0.3, precision="bf16"),
        cadence=Cadence(log_every=10, checkpoint_every=steps, sinks=()),
        resources=Resources(workers=workers),
    )
