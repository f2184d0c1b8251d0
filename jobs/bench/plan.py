"""The order of a simulated corpus of a billion rows: how long an epoch's order takes, and a resume at any step."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from resource import RUSAGE_SELF, getrusage

import numpy as np

from jobs.bench.measurement import Measurement, median_measurement
from xmodal.data.stream.order import StreamPlan, epoch_order

EXTENTS, ROWS, EXTENTS_PER_SHARD, BATCH, REPEATS = 2_000_000, 500, 20, 32_768, 5


def run() -> Iterator[Measurement]:
    """Yield the seconds of an epoch's order and of a resume, and the peak memory."""
    with get_context("spawn").Pool(1) as pool:  # in a process of its own, whose peak of memory is the plan's
        order_s, resume_s, peak_gib = pool.apply(measure)
    detail = {"rows": EXTENTS * ROWS, "extents": EXTENTS, "shards": EXTENTS // EXTENTS_PER_SHARD}
    yield median_measurement(
        order_s, name="plan_epoch_order_s", unit="s", target=10, lower_is_better=True, detail=detail
    )
    yield median_measurement(resume_s, name="plan_resume_s", unit="s", target=1, lower_is_better=True, detail=detail)
    yield Measurement(
        name="plan_peak_memory_gib", value=peak_gib, unit="GiB", target=1, lower_is_better=True, detail=detail
    )


def measure() -> tuple[list[float], list[float], float]:
    """Return seconds to order each of some epochs, seconds to the first task at random steps, and peak GiB."""
    rows = np.full(EXTENTS, ROWS, np.int32)
    shard = np.repeat(np.arange(EXTENTS // EXTENTS_PER_SHARD, dtype=np.int32), EXTENTS_PER_SHARD)
    steps = np.random.default_rng(0).integers(0, 10**6, REPEATS)

    def order(epoch: int) -> None:
        epoch_order(StreamPlan(rows, shard, 0, BATCH), epoch)

    def resume(step: int) -> None:
        next(StreamPlan(rows, shard, 1, BATCH).tasks(step, step + 1))

    order_s = [_seconds(partial(order, epoch)) for epoch in range(REPEATS)]
    resume_s = [_seconds(partial(resume, int(step))) for step in steps]
    return order_s, resume_s, getrusage(RUSAGE_SELF).ru_maxrss / 2**20


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
