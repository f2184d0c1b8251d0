"""Memory and time of the tiled InfoNCE against the loss over the full matrix, forward and backward.

Features of width 512 in float32, one process, one torch thread (as in a train worker). Opponents: `full`, the loss as
open_clip's ClipLoss computes it in one process (one product and one cross-entropy a direction), and `shared`, the same
with one product for both directions. An opponent that would need more than 8 GiB is not run.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.bench.measurement import Measurement, median_measurement
from jobs.bench.memory import peak_increase
from xmodal.losses.contrastive import info_nce

WIDTH = 512
SIZES = (4096, 8192, 16384, 32768)
REPEATS = {4096: 7, 8192: 3, 16384: 3, 32768: 1}
OPPONENT_LIMIT_BYTES = 8 * 2**30
BYTES_PER_ENTRY = 16  # of the full matrix: logits, probabilities and their gradients in float32

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def run() -> Iterator[Measurement]:
    """Yield the peak memory of every size, its ratio and growth; then the time and its ratios."""
    peaks = {}
    for size in SIZES:
        peaks[size] = measured_peak("tiled", size)
        yield Measurement(name=f"loss.memory.{size}", value=peaks[size] / 2**20, unit="MiB", detail=case_detail(size))
        if opponent_fits(size):
            yield memory_ratio_measurement(size, peaks[size])
    steps = math.log2(SIZES[-1] / SIZES[-2])
    yield Measurement(
        name="loss.memory.growth",
        value=math.log2(peaks[SIZES[-1]] / peaks[SIZES[-2]]) / steps,
        unit="power of N",
        target=1.1,
        lower_is_better=True,
        detail={"from": SIZES[-2], "to": SIZES[-1]},
    )
    for size in SIZES:
        yield from time_measurements(size)


def memory_ratio_measurement(size: int, ours: float) -> Measurement:
    """Measure our peak over the opponent's; the target is for 16,384 rows, where the tiles no longer count."""
    full = measured_peak("full", size)
    return Measurement(
        name=f"loss.memory_ratio.{size}",
        value=ours / full,
        unit="x full matrix",
        target=0.1 if size == 16384 else None,
        lower_is_better=True,
        detail={**case_detail(size), "full_MiB": round(full / 2**20)},
    )


def time_measurements(size: int) -> Iterator[Measurement]:
    """Yield seconds of ours, and the ratio to each opponent from rounds in turn."""
    torch.set_num_threads(1)
    contenders = ["tiled", *(name for name in ("full", "shared") if opponent_fits(size))]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(REPEATS[size]):
        for name in contenders:
            seconds[name].append(time_of(LOSSES[name], size))
    yield median_measurement(
        seconds["tiled"], name=f"loss.time.{size}", unit="s", lower_is_better=True, detail=case_detail(size)
    )
    for name in contenders[1:]:
        ratios = [ours / theirs for ours, theirs in zip(seconds["tiled"], seconds[name], strict=True)]
        yield median_measurement(
            ratios,
            name=f"loss.time_ratio.{name}.{size}",
            unit=f"x {name} matrix",
            target=1.2,
            lower_is_better=True,
            detail=case_detail(size),
        )


def full_matrix(u: Tensor, v: Tensor, log_scale: Tensor) -> Tensor:
    """Compute the loss as open_clip's ClipLoss does in one process: a product for each direction."""
    target = torch.arange(len(u))
    by_row, by_column = log_scale.exp() * u @ v.T, log_scale.exp() * v @ u.T
    return (F.cross_entropy(by_row, target) + F.cross_entropy(by_column, target)) / 2


def shared_matrix(u: Tensor, v: Tensor, log_scale: Tensor) -> Tensor:
    """Compute the same loss with one product, as open_clip does over gathered features."""
    target, logits = torch.arange(len(u)), log_scale.exp() * u @ v.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


LOSSES: dict[str, Loss] = {"tiled": info_nce, "full": full_matrix, "shared": shared_matrix}


def opponent_fits(size: int) -> bool:
    """Return whether the full matrix of this size stays below the memory limit."""
    return BYTES_PER_ENTRY * size**2 <= OPPONENT_LIMIT_BYTES


def case_detail(size: int) -> dict[str, int]:
    """Return the details of a measurement of this size."""
    return {"rows": size, "width": WIDTH, "threads": 1}


def features(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit rows of both modalities and the logarithm of the logit scale."""
    random = torch.Generator().manual_seed(0)
    u, v = (F.normalize(torch.randn(size, WIDTH, generator=random), dim=1).requires_grad_() for _ in range(2))
    return u, v, torch.tensor(math.log(1 / 0.07), requires_grad=True)


def time_of(loss: Loss, size: int) -> float:
    """Return seconds of one forward and backward pass; the features are made before."""
    inputs = features(size)
    start = time.perf_counter()
    loss(*inputs).backward()
    return time.perf_counter() - start


def measured_peak(name: str, size: int) -> float:
    """Return `peak` of a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak, (name, size))


def peak(name: str, size: int) -> float:
    """Return the rise of resident memory in bytes during a forward and backward pass, after a small one."""
    torch.set_num_threads(1)
    time_of(LOSSES[name], 64)
    inputs = features(size)
    return peak_increase(lambda: LOSSES[name](*inputs).backward())
