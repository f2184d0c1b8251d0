"""Retries come in, how many there were goes out; apart from the retry loop so that reading it loads no S3 client."""

import threading
from collections import Counter


class RetryCounts:
    """How often requests of this process were repeated, by cause; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, cause: str) -> None:
        with self._lock:
            self._counts[cause] += 1

    def by_cause(self) -> dict[str, int]:
        """Number of retries per cause: busy, timeout, connection, cut body, server error, expired credentials."""
        with self._lock:
            return dict(self._counts)

    @property
    def total(self) -> int:
        return sum(self.by_cause().values())


retries = RetryCounts()
