"""Measure where the time of the training loop goes."""

import time
from collections.abc import Iterable, Iterator
from typing import Any


class Stopwatch:
    """Throughput of a loop, the share of its time spent waiting for data, and the time to its first batch."""

    def __init__(self, rows_per_step: int) -> None:
        self._rows_per_step = rows_per_step
        self._since = time.perf_counter()
        self._steps = 0
        self._waited_s = 0.0
        self._first_s: float | None = None

    def time_waits(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items; the time until each one comes counts as waiting for data."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            item = next(iterator, None)
            waited_s = time.perf_counter() - started
            if item is None:
                return
            if self._first_s is None:  # starting a stream is not counted as waiting for it
                self._first_s, self._since = waited_s, time.perf_counter()
            else:
                self._waited_s += waited_s
            self._steps += 1
            yield item

    def exclude(self, seconds: float) -> None:
        """Leave out time that was spent on something else than steps."""
        self._since += seconds

    def pop_metrics(self) -> dict[str, float]:
        """Return the metrics since the last call: samples/s over all ranks, seconds a step, share of time waiting.

        The first call also has the time to the first batch.
        """
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        metrics = {
            "samples_per_s": self._steps * self._rows_per_step / elapsed,
            "seconds_per_step": elapsed / max(self._steps, 1),
            "data_wait_share": self._waited_s / elapsed,
        }
        if self._first_s:
            metrics["first_batch_s"] = self._first_s
        self._since, self._steps, self._waited_s, self._first_s = now, 0, 0.0, 0.0
        return metrics
