"""Carry events from the ranks of a run to its driver, while the driver waits for them to finish."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

from pipelines.runtime.events import Event, OnEvent, UnrecoverableError


@dataclass
class EventQueue:
    """Keeps events until the driver takes them; an actor that the ranks put them into."""

    events: list[Event] = field(default_factory=list)

    def put(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        """Return all events since the last call, oldest first."""
        events, self.events = self.events, []
        return events


def start_event_queue() -> Any:
    """Start an EventQueue that lives as long as the driver holds its handle and takes no CPU slot."""
    return ray.remote(num_cpus=0)(EventQueue).remote()


@contextmanager
def forward_events(queue: Any, on_event: OnEvent, every_s: float = 0.3) -> Iterator[list[UnrecoverableError]]:
    """Pass the ranks' events to `on_event`, from a thread, until the block ends.

    Yields a list: errors that stop the run are collected there and not passed on.
    """
    stops: list[UnrecoverableError] = []
    finished = threading.Event()

    def drain() -> None:
        for event in ray.get(queue.take.remote()):
            if isinstance(event, UnrecoverableError):
                stops.append(event)
            else:
                on_event(event)

    def forward() -> None:
        while not finished.wait(every_s):
            drain()

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield stops
    finally:
        finished.set()
        thread.join()
        drain()


def to_json(value: Any) -> Any:
    """Return metrics as plain JSON values: a numpy float kills Ray Train's controller."""
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value.item() if hasattr(value, "item") else value
