"""Steps a second of a compute-bound model through Ray Train and Data, against plain torch DDP on preloaded batches.

The same objective, optimizer and `train_step` on the same two processes and one thread each: what differs is where the
batches come from and who started the processes. Ours start with memory settings of their own, so the plain ones are
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

from jobs.bench.measurement import Figure, median_figure
from pipelines.config.optimizer import Optim
from pipelines.loop.train import Cadence
from pipelines.models.dual_encoder import Model
from pipelines.runtime.cluster import Resources
from pipelines.stages import pretrain
from pipelines.stages.pretrain import Config
from pipelines.stream.corpora import Data
from pipelines.stream.ingest import to_batch
from xmodal import checkpoint
from xmodal.batch import Batch
from xmodal.data import synthetic
from xmodal.data.decode.fields import parse_field_map
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import Recipe
from xmodal.data.stream.order import Plan
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.run import read_metrics
from xmodal.training.engine.memory import ALLOCATOR
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.step import train_step
from xmodal.training.objective import ContrastiveObjective

WORKERS, BATCH, ROWS, STEPS, WARM, ROUNDS, PORT = 2, 256, 2048, 40, 10, 3, 29_533
PLAIN: dict[str, dict[str, str]] = {"plain": {}, "plain_same_memory": ALLOCATOR}


def run() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        corpus = str(Path(scratch, "corpus"))
        synthetic.write_corpus(corpus, "photo", ROWS, 0, rows_per_shard=256, size=64)
        ours: list[float] = []
        plain: dict[str, list[float]] = {name: [] for name in PLAIN}
        for number in range(ROUNDS):
            run_uri = through_ray(corpus, scratch, f"round-{number}")
            ours.append(_steady([line["samples_per_s"] for line in read_metrics(run_uri)]) / BATCH)
            ray.shutdown()
            for name, settings in PLAIN.items():
                plain[name].append(plain_ddp(corpus, checkpoint.resolve(run_uri).uri, settings))
    detail = {"workers": WORKERS, "batch_size": BATCH, "model": "vit-tiny"}
    yield median_figure(ours, name="overhead_ray_steps_per_s", unit="steps/s", detail=detail)
    for name, rates in plain.items():
        ratios = [a / b for a, b in zip(ours, rates, strict=True)]
        reach = 0.95 if name == "plain" else None
        yield median_figure(rates, name=f"overhead_{name}_ddp_steps_per_s", unit="steps/s", detail=detail)
        yield median_figure(ratios, name=f"overhead_ray_over_{name}", unit="ratio", reach=reach, detail=detail)


def _steady(rates: list[float]) -> float:
    """The median over the logged intervals behind the warm-up."""
    return statistics.median(rates[WARM // 2 :])


def through_ray(corpus: str, runs: str, name: str) -> str:
    """A pretraining run as a user starts it; its URI."""
    config = Config(
        name=name,
        runs=runs,
        data=Data(corpus=(corpus,)),
        model=Model(architecture="vit-tiny", vocab_size=2000),
        optim=Optim(batch_size=BATCH, steps=STEPS),
        cadence=Cadence(log_every=2, checkpoint_every=10 * STEPS, sinks=()),
        resources=Resources(workers=WORKERS, address="local"),
    )
    return pretrain.run(config).run.uri


def plain_ddp(corpus: str, directory: str, settings: dict[str, str]) -> float:
    """Steps a second of the same training without Ray, on batches that lie in memory; `settings` of its processes."""
    with tempfile.NamedTemporaryFile() as answer, patch.dict(os.environ, settings):
        torch.multiprocessing.spawn(_rank, (corpus, directory, answer.name), nprocs=WORKERS)
        return float(Path(answer.name).read_text())


def _rank(rank: int, corpus: str, directory: str, answer: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORKERS)
    objective = ContrastiveObjective(DualEncoder.from_pretrained(directory), mask_duplicates=True)
    state = TrainState.create(objective, schedule=CosineSchedule(peak=5e-4, total_steps=STEPS), seed=0)
    shares = preloaded(corpus, directory, BATCH // WORKERS)[rank::WORKERS]
    rates = []
    for step in range(0, STEPS, 2):
        started = time.perf_counter()
        train_step(state, shares[step % len(shares)])
        train_step(state, shares[(step + 1) % len(shares)])
        rates.append(2 / (time.perf_counter() - started))
    if rank == 0:
        Path(answer).write_text(str(_steady(rates)))
    dist.destroy_process_group()


def preloaded(corpus: str, directory: str, batch_size: int) -> list[Batch]:
    """An epoch of scenes in memory, as a checkpoint's model wants them."""
    fields = (ImageField(size=64), TextField(tokenizer_json=load_tokenizer(directory), length=32))
    recipe = Recipe(parse_field_map(("image=jpg", "text=txt")), fields)
    opened = open_corpus(corpus)
    plan = Plan(opened.extents.rows, opened.extents.shard, 0, batch_size, shuffle=False)
    tasks = blocks.read_tasks(opened, plan, 0, plan.steps_per_epoch, batch_size)
    return [to_batch([block], recipe) for task in tasks for block in blocks.read(task, recipe)]
