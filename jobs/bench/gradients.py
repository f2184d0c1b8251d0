"""What MMPareto costs: time and memory of a step against the sum of the losses, and agreement over numbers of ranks.

One process, one torch thread, two encoders of one kind (convolutional or transformer) on random pictures. The methods
take turns in every round, and a ratio is of one round, in CPU seconds (nothing waits here): `features` and `parameters`
of this library, and `published`, the four-backward recipe of the paper's code. Two passes cannot be below
(F + 2 B) / (F + B) for a forward F and a backward B: 1.67 where B = 2 F. Memory is the peak above the uniform
baseline's, each in a process of its own and with gradients that stay allocated between steps (as in DDP's buckets), in
units of the encoders' gradients. Agreement: the weights after five steps on W gloo ranks against one rank.
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

from jobs.bench.measurement import Figure, median_figure
from jobs.bench.memory import keep_freed, resident
from jobs.bench.two_modalities import MODELS, TwoModalities, rows_of, stepper
from xmodal.gradients import FeatureSplitter, weighting

METHODS = ("uniform", "features", "parameters", "published")
REACH = {"features": 1.05, "parameters": 1.7, "published": None}
MEMORY_REACH = {"features": 0.05, "parameters": 1.05, "published": None}  # 5 % for the resolution of resident memory
BATCH = {"conv": 64, "transformer": 32, "wide": 2, "small": 24}
PIXELS = {"conv": 64, "transformer": 64, "wide": 32, "small": 32}
ROUNDS, WARM, STEPS, PEAKS = 15, 1, 5, 5


def run() -> Iterator[Figure]:
    """Step cost of both kinds of encoders, then memory, then agreement."""
    keep_freed()
    for kind in ("conv", "transformer"):
        yield from costs(kind)
    yield from memory()
    for space in ("features", "parameters"):
        yield from agreement(space)


def costs(kind: str) -> Iterator[Figure]:
    """CPU seconds of the uniform baseline, and each method's ratio to it."""
    torch.set_num_threads(1)
    rows = rows_of(BATCH[kind], PIXELS[kind])
    steps = {method: stepper(method, MODELS[kind]()) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for number in range(WARM + ROUNDS):
        for method, step in steps.items():
            start = time.process_time()
            step(rows)
            if number >= WARM:
                seconds[method].append(time.process_time() - start)
    where = detail(kind)
    yield median_figure(seconds["uniform"], name=f"gradients.{kind}.uniform", unit="s", at_most=True, detail=where)
    for method in METHODS[1:]:
        ratios = [x / base for x, base in zip(seconds[method], seconds["uniform"], strict=True)]
        name = f"gradients.{kind}.{method}"
        yield median_figure(ratios, name=name, unit="x uniform", reach=REACH[method], at_most=True, detail=where)


def memory() -> Iterator[Figure]:
    """The peak above the baseline's, as multiples of the gradients of both encoders."""
    peaks = {method: [measured_peak(method) for _ in range(PEAKS)] for method in METHODS}
    gradients = sum(p.numel() * p.element_size() for p in MODELS["wide"]().encoders.parameters())
    where = detail("wide") | {"encoders_gradients_MiB": round(gradients / 2**20)}
    for method in METHODS[1:]:
        yield median_figure(
            [(own - base) / gradients for own, base in zip(peaks[method], peaks["uniform"], strict=True)],
            name=f"gradients.memory.{method}",
            unit="x encoders' gradients",
            reach=MEMORY_REACH[method],
            at_most=True,
            detail=where | {"peak_MiB": round(statistics.median(peaks[method]) / 2**20)},
        )


def measured_peak(method: str) -> float:
    """Bytes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak, (method,))


def peak(method: str) -> float:
    """The highest resident memory of this process over three steps, behind a first one."""
    torch.set_num_threads(1)
    step, rows = stepper(method, MODELS["wide"](), keep=True), rows_of(BATCH["wide"], PIXELS["wide"])
    step(rows)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    for _ in range(3):
        step(rows)
    return resident("VmHWM")


def agreement(space: str) -> Iterator[Figure]:
    """|weights of W ranks - weights of one| / |weights of one| after five steps in float32."""
    one = weights_after(space, 1)
    for world in (2, 4):
        other = weights_after(space, world)
        yield Figure(
            name=f"gradients.{space}.ranks_{world}",
            value=((other - one).norm() / one.norm()).item(),
            unit="relative difference",
            reach=1e-6,
            at_most=True,
            detail=detail("small") | {"steps": STEPS, "backend": "gloo"},
        )


def weights_after(space: str, world: int) -> Tensor:
    with tempfile.TemporaryDirectory(prefix="xmodal-bench-") as scratch:
        torch.multiprocessing.spawn(train_rank, (world, space, scratch), nprocs=world)
        return torch.from_numpy(np.load(Path(scratch, "weights.npy")))


def train_rank(rank: int, world: int, space: str, scratch: str) -> None:
    """Five steps on this rank's rows; rank 0 writes the weights in float64."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=world)
    model = MODELS["small"]()
    step = stepper(space, model, ranked(model) if space == "features" else None)
    size = BATCH["small"] // world
    for number in range(STEPS):
        rows = rows_of(BATCH["small"], PIXELS["small"], seed=number)
        step({name: x[rank * size : (rank + 1) * size] for name, x in rows.items()})
    if rank == 0:
        weights = torch.cat([p.detach().double().flatten() for p in model.parameters()])
        np.save(Path(scratch, "weights.npy"), weights.numpy())
    dist.barrier()
    dist.destroy_process_group()


def ranked(model: TwoModalities) -> DistributedDataParallel:
    """Plain DDP around a model with a splitter, whose numbers travel in a group of their own."""
    model.splitter = FeatureSplitter(weighting("mmpareto"), group=dist.new_group())
    return DistributedDataParallel(model)


def detail(kind: str) -> dict[str, Any]:
    return {"encoders": f"2 x {kind}", "batch": BATCH[kind], "pixels": PIXELS[kind], "threads": 1}
