"""The order of a simulated corpus of a billion rows: how long an epoch's order takes, and a resume at any step."""

import time
from collections.abc import Iterator
from multiprocessing import get_context
from resource import RUSAGE_SELF, getrusage

import numpy as np

from jobs.bench.measurement import Figure, median_figure
from xmodal.data.stream.order import Plan, epoch_order

EXTENTS, ROWS, EXTENTS_PER_SHARD, BATCH, REPEATS = 2_000_000, 500, 20, 32_768, 5


def run() -> Iterator[Figure]:
    with get_context("spawn").Pool(1) as pool:  # a process of its own: the peak of its memory is the plan's
        order_s, resume_s, peak_gib = pool.apply(measure)
    detail = {"rows": EXTENTS * ROWS, "extents": EXTENTS, "shards": EXTENTS // EXTENTS_PER_SHARD}
    yield median_figure(order_s, name="plan_epoch_order_s", unit="s", reach=10, at_most=True, detail=detail)
    yield median_figure(resume_s, name="plan_resume_s", unit="s", reach=1, at_most=True, detail=detail)
    yield Figure(name="plan_peak_memory_gib", value=peak_gib, unit="GiB", reach=1, at_most=True, detail=detail)


def measure() -> tuple[list[float], list[float], float]:
    """Seconds to order each of some epochs, seconds to the first task at random steps of a fresh plan, peak GiB."""
    rows = np.full(EXTENTS, ROWS, np.int32)
    shard = np.repeat(np.arange(EXTENTS // EXTENTS_PER_SHARD, dtype=np.int32), EXTENTS_PER_SHARD)
    steps = np.random.default_rng(0).integers(0, 10**6, REPEATS)
    order_s = [_seconds(lambda e=epoch: epoch_order(Plan(rows, shard, 0, BATCH), e)) for epoch in range(REPEATS)]
    resume_s = [_seconds(lambda s=int(step): next(Plan(rows, shard, 1, BATCH).tasks(s, s + 1))) for step in steps]
    return order_s, resume_s, getrusage(RUSAGE_SELF).ru_maxrss / 2**20


def _seconds(call) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
