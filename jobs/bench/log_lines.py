"""Seconds that 60 short steps take when every one is logged, against the same steps with one log line at the end.

A log line must not hold the training up: it leaves rank 0 without waiting for an answer. Both take turns on the same
corpus; the wait for the first batch is not counted.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray

from jobs.bench.measurement import Measurement, median_measurement
from pipelines.config.architectures import model_config
from pipelines.config.data import DataConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.stages import pretrain
from xmodal.data import synthetic
from xmodal.run import read_metrics

WORKERS, BATCH, ROWS, STEPS, ROUNDS = 2, 32, 2048, 60, 3
EVERY = {"every_step": 1, "at_the_end": 1000}  # steps between two log lines


def run() -> Iterator[Measurement]:
    """Yield the seconds of the steps with each number of log lines, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        corpus = str(Path(scratch, "corpus"))
        synthetic.write_corpus(corpus, "photo", ROWS, 0, rows_per_shard=256, size=64)
        seconds: dict[str, list[float]] = {name: [] for name in EVERY}
        for number in range(ROUNDS):
            for name, log_every in EVERY.items():
                seconds[name].append(seconds_of_steps(corpus, scratch, f"{name}-{number}", log_every))
        ray.shutdown()
    detail = {"workers": WORKERS, "batch_size": BATCH, "steps": STEPS, "model": "vit-tiny"}
    for name, samples in seconds.items():
        yield median_measurement(samples, name=f"log_lines_{name}_s", unit="s", lower_is_better=True, detail=detail)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    yield median_measurement(
        ratios, name="log_lines_every_step_over_at_the_end", unit="ratio", target=1.1, lower_is_better=True,
        detail=detail,
    )  # fmt: skip


def seconds_of_steps(corpus: str, runs: str, name: str, log_every: int) -> float:
    """Train a small model; return the seconds between its first batch and its last step."""
    config = PretrainConfig(
        run=RunOptions(name=name, runs=runs),
        data=DataConfig(corpus=(corpus,)),
        model=model_config("vit-tiny", vocab_size=600, width=64, depth=1),
        optim=OptimizerConfig(batch_size=BATCH, steps=STEPS),
        logging=LoggingConfig(log_every=log_every, sinks=()),
        checkpoints=CheckpointConfig(checkpoint_every=10 * STEPS),
        resources=ResourceConfig(workers=WORKERS, address="local"),
    )
    lines = read_metrics(pretrain.run(config).run.uri)
    return sum(line["seconds_per_step"] * min(log_every, STEPS) for line in lines)
