"""Counts the retries of storage requests; a module of its own, so that reading the counts imports no S3 client."""

import threading
from collections import Counter


class RetryCounts:
    """The number of retries of this process by cause; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, cause: str) -> None:
        with self._lock:
            self._counts[cause] += 1

    def by_cause(self) -> dict[str, int]:
        """Return the retries per cause: busy, timeout, connection, cut body, server error, expired credentials."""
        with self._lock:
            return dict(self._counts)

    @property
    def total(self) -> int:
        return sum(self.by_cause().values())


retries = RetryCounts()
