"""A least-recently-used cache in memory whose limit is a number of bytes."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """Values by key, up to `limit_bytes` in all; several threads that ask for the same key make its value once.

    >>> cache = LRUCache[str](limit_bytes=8)
    >>> cache.get("a", lambda: "value", len), cache.get("a", lambda: "never made", len)
    ('value', 'value')
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.clear()
        os.register_at_fork(after_in_child=self.clear)  # a lock that another thread of the parent holds never opens

    def clear(self) -> None:
        """Remove all values; not to be called while another thread makes one."""
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Return the value of `key`, made by `make` if it is not in the cache; exceptions of `make` are passed on."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            try:
                if (entry := self._look_up(key)) is not None:
                    return entry[0]
                value = make()
                self._store(key, value, size(value))
                return value
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _look_up(self, key: Hashable) -> tuple[Value, int] | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def _store(self, key: Hashable, value: Value, size: int) -> None:
        with self._lock:
            self._values[key] = (value, size)
            while self._values and sum(size for _, size in self._values.values()) > self.limit_bytes:
                self._values.popitem(last=False)
