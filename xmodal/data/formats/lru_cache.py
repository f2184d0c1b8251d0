"""Values that are costly to make, kept in this process up to a number of bytes; the least recently used go first."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Safe to use from several threads: two that ask for the same key make it once."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.clear()
        os.register_at_fork(after_in_child=self.clear)  # a lock that a thread of the parent held would never open

    def clear(self) -> None:
        """Forget everything; not to be called while another thread makes a value."""
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """The value of `key`; `make` is called if it is not kept, and what it raises is passed on."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            try:
                if (kept := self._take(key)) is not None:
                    return kept[0]
                value = make()
                self._keep(key, value, size(value))
                return value
            finally:
                with self._lock:
                    self._making.pop(key, None)

    def _take(self, key: Hashable) -> tuple[Value, int] | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def _keep(self, key: Hashable, value: Value, size: int) -> None:
        with self._lock:
            self._values[key] = (value, size)
            while self._values and sum(size for _, size in self._values.values()) > self.limit_bytes:
                self._values.popitem(last=False)
