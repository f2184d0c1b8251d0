"""What MMPareto costs: time and memory of a step against the sum of the losses, and agreement over numbers of ranks.

One process, one torch thread, two encoders of one kind (convolutional or transformer) on random images. The methods
take turns in every round, and a ratio is of one round, in CPU seconds (nothing waits here): `features` and `parameters`
of this library, and `published`, the four-backward recipe of the paper's code. Two passes cannot be below (F + 2 B) /
(F + B) for a forward F and a backward B: 1.67 where B = 2 F. Memory is the peak above the uniform baseline's, each in a
process of its own and with gradients that stay allocated between steps (as in DDP's buckets), in units of the encoders'
gradients. Agreement: the weights after five steps on W gloo ranks against one rank.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from jobs.bench.measurement import Measurement, median_measurement
from jobs.bench.memory import keep_freed_memory, memory_bytes
from jobs.bench.two_modalities import MODELS, TwoModalities, build_step, random_rows
from xmodal.gradients import FeatureSplitter, weighting

METHODS = ("uniform", "features", "parameters", "published")
TARGETS = {"features": 1.05, "parameters": 1.7, "published": None}
MEMORY_TARGETS = {"features": 0.05, "parameters": 1.05, "published": None}  # 5 % for the resolution of resident memory
BATCH = {"conv": 64, "transformer": 32, "wide": 2, "small": 24}
PIXELS = {"conv": 64, "transformer": 64, "wide": 32, "small": 32}
ROUNDS, WARM, STEPS, PEAKS = 15, 1, 5, 5


def run() -> Iterator[Measurement]:
    """Yield the step cost of both kinds of encoders, then memory, then agreement."""
    keep_freed_memory()
    for kind in ("conv", "transformer"):
        yield from costs(kind)
    yield from memory()
    for space in ("features", "parameters"):
        yield from rank_agreement(space)


def costs(kind: str) -> Iterator[Measurement]:
    """Yield CPU seconds of the uniform baseline, and each method's ratio to it."""
    torch.set_num_threads(1)
    rows = random_rows(BATCH[kind], PIXELS[kind])
    steps = {method: build_step(method, MODELS[kind]()) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for number in range(WARM + ROUNDS):
        for method, step in steps.items():
            start = time.process_time()
            step(rows)
            if number >= WARM:
                seconds[method].append(time.process_time() - start)
    details = detail(kind)
    yield median_measurement(
        seconds["uniform"], name=f"gradients.{kind}.uniform", unit="s", lower_is_better=True, detail=details
    )
    for method in METHODS[1:]:
        ratios = [x / base for x, base in zip(seconds[method], seconds["uniform"], strict=True)]
        name = f"gradients.{kind}.{method}"
        yield median_measurement(
            ratios, name=name, unit="x uniform", target=TARGETS[method], lower_is_better=True, detail=details
        )


def memory() -> Iterator[Measurement]:
    """Yield the peak above the baseline's, as multiples of the gradients of both encoders."""
    peaks = {method: [measured_peak(method) for _ in range(PEAKS)] for method in METHODS}
    gradients = sum(p.numel() * p.element_size() for p in MODELS["wide"]().encoders.parameters())
    details = detail("wide") | {"encoders_gradients_MiB": round(gradients / 2**20)}
    for method in METHODS[1:]:
        yield median_measurement(
            [(peak - base) / gradients for peak, base in zip(peaks[method], peaks["uniform"], strict=True)],
            name=f"gradients.memory.{method}",
            unit="x encoders' gradients",
            target=MEMORY_TARGETS[method],
            lower_is_better=True,
            detail=details | {"peak_MiB": round(statistics.median(peaks[method]) / 2**20)},
        )


def measured_peak(method: str) -> float:
    """Return `peak` of a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak, (method,))


def peak(method: str) -> float:
    """Return the highest resident memory of this process in bytes over three steps, after a first one."""
    torch.set_num_threads(1)
    step, rows = build_step(method, MODELS["wide"](), keep=True), random_rows(BATCH["wide"], PIXELS["wide"])
    step(rows)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    for _ in range(3):
        step(rows)
    return memory_bytes("VmHWM")


def rank_agreement(space: str) -> Iterator[Measurement]:
    """Yield |weights of W ranks - weights of one| / |weights of one| after five steps in float32."""
    one_rank = train_weights(space, 1)
    for world in (2, 4):
        several_ranks = train_weights(space, world)
        yield Measurement(
            name=f"gradients.{space}.ranks_{world}",
            value=((several_ranks - one_rank).norm() / one_rank.norm()).item(),
            unit="relative difference",
            target=1e-6,
            lower_is_better=True,
            detail=detail("small") | {"steps": STEPS, "backend": "gloo"},
        )


def train_weights(space: str, world: int) -> Tensor:
    """Return all weights after five steps on `world` ranks."""
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        torch.multiprocessing.spawn(train_rank, (world, space, scratch), nprocs=world)
        return torch.from_numpy(np.load(Path(scratch, "weights.npy")))


def train_rank(rank: int, world: int, space: str, scratch: str) -> None:
    """Take five steps on this rank's rows; rank 0 writes the weights in float64."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=world)
    model = MODELS["small"]()
    step = build_step(space, model, wrap_in_ddp(model) if space == "features" else None)
    size = BATCH["small"] // world
    for number in range(STEPS):
        rows = random_rows(BATCH["small"], PIXELS["small"], seed=number)
        step({name: x[rank * size : (rank + 1) * size] for name, x in rows.items()})
    if rank == 0:
        weights = torch.cat([p.detach().double().flatten() for p in model.parameters()])
        np.save(Path(scratch, "weights.npy"), weights.numpy())
    dist.barrier()
    dist.destroy_process_group()


def wrap_in_ddp(model: TwoModalities) -> DistributedDataParallel:
    """Return plain DDP around a model with a splitter, whose numbers travel in a process group of their own."""
    model.splitter = FeatureSplitter(weighting("mmpareto"), group=dist.new_group())
    return DistributedDataParallel(model)


def detail(kind: str) -> dict[str, Any]:
    """Return the details of a measurement with this kind of encoders."""
    return {"encoders": f"2 x {kind}", "batch": BATCH[kind], "pixels": PIXELS[kind], "threads": 1}
