"""Processes for trials: orders in, messages of trials out; one that is ended leaves nothing on machine or cluster."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from pipelines.sweep.trial import DONE, FAILED, Order, serve

DIED = "died"
HELD = ["xmodal.encoders", "xmodal.checkpoint"]  # what is slow to import and knows nothing of Ray
GRACE_S = 5.0  # until a process that was killed is expected to be gone


@dataclass(eq=False)
class _Slot:
    process: Any
    pipe: Connection
    order: Order | None = None
    heard: float = 0.0  # when it last said anything, by time.monotonic


class Slots:
    """At most `count` processes, forked from one that holds `HELD`: no Ray, no threads.

    One whose trial ended well takes the next one and saves its imports.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(HELD)
        self._slots: list[_Slot] = []
        self._scratch = tempfile.mkdtemp(prefix="xmodal-sweep-")

    @property
    def free(self) -> int:
        return self.count - sum(slot.order is not None for slot in self._slots)

    def start(self, order: Order) -> None:
        """Hand an order to an idle process, or to a new one."""
        order = replace(order, scratch=f"{self._scratch}/{order.namespace}")
        slot = next((slot for slot in self._slots if slot.order is None), None) or self._new()
        slot.order, slot.heard = order, time.monotonic()
        try:
            slot.pipe.send(order)
        except OSError:  # it died while it was idle
            self._forget(slot)
            slot = self._new()
            slot.order, slot.heard = order, time.monotonic()
            slot.pipe.send(order)

    def listen(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """What trials say within the next moments; a trial whose process ended by itself says `died`."""
        busy = {slot.pipe: slot for slot in self._slots if slot.order is not None}
        for pipe in wait(list(busy), timeout_s):
            slot = busy[pipe]  # type: ignore[index]
            if slot.order is None:  # what was said before ended it
                continue
            trial = slot.order.trial
            try:
                message = slot.pipe.recv()
            except (EOFError, OSError):
                slot.process.join(GRACE_S)
                code = slot.process.exitcode
                self._forget(slot)
                yield {"trial": trial, "kind": DIED, "error": _how(code), "again": True}
                continue
            slot.heard = time.monotonic()
            if message["kind"] in (DONE, FAILED):
                self._tidy(slot)
                slot.order = None
            yield message

    def silent(self, seconds: float) -> list[int]:
        """Trials that said nothing for so long."""
        now = time.monotonic()
        return [slot.order.trial for slot in self._slots if slot.order is not None and now - slot.heard > seconds]

    def end(self, trial: int) -> None:
        """End a trial's process at once; the cluster takes back what was its job's."""
        for slot in [slot for slot in self._slots if slot.order is not None and slot.order.trial == trial]:
            self._forget(slot)

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, *error: object) -> None:
        for slot in list(self._slots):
            self._forget(slot)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _new(self) -> _Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, dict(os.environ)), daemon=False)
        process.start()
        theirs.close()
        slot = _Slot(process, ours)
        self._slots.append(slot)
        return slot

    def _forget(self, slot: _Slot) -> None:
        slot.process.kill()
        slot.process.join(GRACE_S)
        slot.pipe.close()
        self._slots.remove(slot)
        if slot.order is not None:
            self._tidy(slot)

    def _tidy(self, slot: _Slot) -> None:
        assert slot.order is not None
        shutil.rmtree(slot.order.scratch, ignore_errors=True)


def _how(code: int | None) -> str:
    if code == -9:
        return "its process was killed (signal 9): out of memory, or by somebody"
    return (
        f"its process ended by signal {-code}" if code is not None and code < 0 else f"its process exited with {code}"
    )
