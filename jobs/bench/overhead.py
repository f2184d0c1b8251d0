"""Steps a second of a compute-bound model through Ray Train and Data, against plain torch DDP on preloaded batches.

The same objective, optimizer and `train_step` on the same two processes and one thread each: the difference is where
the batches come from and who started the processes. Ours start with memory settings of their own, so the plain ones are
timed both as torch starts them and with the same settings. All take turns; a ratio is of one round.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import ray
import torch
import torch.distributed as dist
import torch.multiprocessing

from jobs.bench.measurement import Measurement, median_measurement
from pipelines.config.architectures import model_config
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions
from pipelines.runtime.cluster import ResourceConfig
from pipelines.stages import pretrain
from pipelines.stages.pretrain import PretrainConfig
from pipelines.stream.corpora import DataConfig
from xmodal import checkpoint
from xmodal.batch import Batch
from xmodal.data import synthetic
from xmodal.data.decode.fields import parse_field_map
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import RowDecoder
from xmodal.data.stream.order import StreamPlan
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.run import read_metrics
from xmodal.streaming import batch_of_blocks
from xmodal.training.engine.memory import MALLOC_SETTINGS
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.contrastive import ContrastiveObjective

WORKERS, BATCH, ROWS, STEPS, WARMUP_STEPS, ROUNDS, PORT = 2, 256, 2048, 40, 10, 3, 29_533
PLAIN: dict[str, dict[str, str]] = {"plain": {}, "plain_same_memory": MALLOC_SETTINGS}


def run() -> Iterator[Measurement]:
    """Yield steps a second through Ray and of plain DDP, and their ratios."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        corpus = str(Path(scratch, "corpus"))
        synthetic.write_corpus(corpus, "photo", ROWS, 0, rows_per_shard=256, size=64)
        ours: list[float] = []
        plain: dict[str, list[float]] = {name: [] for name in PLAIN}
        for number in range(ROUNDS):
            run_uri = run_through_ray(corpus, scratch, f"round-{number}")
            ours.append(_steady_rate([line["samples_per_s"] for line in read_metrics(run_uri)]) / BATCH)
            ray.shutdown()
            for name, settings in PLAIN.items():
                plain[name].append(plain_ddp_rate(corpus, checkpoint.resolve(run_uri).uri, settings))
    detail = {"workers": WORKERS, "batch_size": BATCH, "model": "vit-tiny"}
    yield median_measurement(ours, name="overhead_ray_steps_per_s", unit="steps/s", detail=detail)
    for name, rates in plain.items():
        ratios = [a / b for a, b in zip(ours, rates, strict=True)]
        target = 0.95 if name == "plain" else None
        yield median_measurement(rates, name=f"overhead_{name}_ddp_steps_per_s", unit="steps/s", detail=detail)
        yield median_measurement(ratios, name=f"overhead_ray_over_{name}", unit="ratio", target=target, detail=detail)


def _steady_rate(rates: list[float]) -> float:
    """Return the median over the logged intervals after the warm-up."""
    return statistics.median(rates[WARMUP_STEPS // 2 :])


def run_through_ray(corpus: str, runs: str, name: str) -> str:
    """Pretrain as a user starts it; return the run's URI."""
    config = PretrainConfig(
        run=RunOptions(name=name, runs=runs),
        data=DataConfig(corpus=(corpus,)),
        model=model_config("vit-tiny", vocab_size=2000),
        optim=OptimizerConfig(batch_size=BATCH, steps=STEPS),
        logging=LoggingConfig(log_every=2, sinks=()),
        checkpoints=CheckpointConfig(checkpoint_every=10 * STEPS),
        resources=ResourceConfig(workers=WORKERS, address="local"),
    )
    return pretrain.run(config).run.uri


def plain_ddp_rate(corpus: str, directory: str, settings: dict[str, str]) -> float:
    """Return steps a second of the same training without Ray, on batches in memory; `settings` is its environment."""
    with tempfile.NamedTemporaryFile() as answer, patch.dict(os.environ, settings):
        torch.multiprocessing.spawn(_rank, (corpus, directory, answer.name), nprocs=WORKERS)
        return float(Path(answer.name).read_text())


def _rank(rank: int, corpus: str, directory: str, answer: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    objective = ContrastiveObjective(DualEncoder.from_pretrained(directory), mask_duplicates=True)
    state = TrainState.create(objective, schedule=CosineSchedule(peak=5e-4, total_steps=STEPS), seed=0)
    shares = load_batches(corpus, directory, BATCH // WORKERS)[rank::WORKERS]
    rates = []
    for step in range(0, STEPS, 2):
        started = time.perf_counter()
        train_step(state, shares[step % len(shares)])
        train_step(state, shares[(step + 1) % len(shares)])
        rates.append(2 / (time.perf_counter() - started))
    if rank == 0:
        Path(answer).write_text(str(_steady_rate(rates)))
    dist.destroy_process_group()


def load_batches(corpus: str, directory: str, batch_size: int) -> list[Batch]:
    """Return an epoch of scenes in memory, as batches for the model of a checkpoint."""
    fields = (ImageField(size=64), TextField(tokenizer_json=load_tokenizer(directory), length=32))
    decoder = RowDecoder(parse_field_map(("image=jpg", "text=txt")), fields)
    opened = open_corpus(corpus)
    plan = StreamPlan(opened.extents.rows, opened.extents.shard, 0, batch_size, shuffle="off")
    tasks = blocks.block_tasks(opened, plan, 0, plan.steps_per_epoch, batch_size)
    return [batch_of_blocks([block], decoder.columns) for task in tasks for block in blocks.read_blocks(task, decoder)]
