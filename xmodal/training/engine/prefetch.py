"""Copies host batches to the device in a background thread while the device works."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import torch

from xmodal.batch import Batch

In = TypeVar("In")
Out = TypeVar("Out")


def to_device(batches: Iterable[Batch], device: torch.device | str, *, depth: int = 2) -> Iterator[Batch]:
    """Yield the batches on `device`, copied up to `depth` batches ahead; on a CPU nothing runs ahead.

    A thread pins each batch and copies it on a CUDA stream of its own; the consumer's stream waits for that copy only.
    """
    device = torch.device(device)
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copy_stream: torch.cuda.Stream = torch.cuda.Stream(device)
    with closing(prefetch(batches, lambda batch: _copy(batch, device, copy_stream), depth=depth)) as copies:
        for batch, copied in copies:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(copied)
            for x in (batch.row, batch.valid, *batch.fields.values()):
                x.record_stream(stream)  # or the allocator may reuse it while this stream still reads
            yield batch


def prefetch(items: Iterable[In], prepare: Callable[[In], Out], *, depth: int) -> Generator[Out, None, None]:
    """Yield `map(prepare, items)`, computed in a thread at most `depth` results ahead.

    An exception of the thread is raised in the consumer, after the results before it. Closing the generator ends the
    thread, at the latest when its running `next(items)` returns.

    >>> list(prefetch([1, 2, 3], lambda x: x * x, depth=2))
    [1, 4, 9]
    """
    results: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, prepare, results, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, result = results.get()
            if more:
                yield result
            elif isinstance(result, BaseException):
                raise result
            else:
                return
    finally:
        stop.set()


def _fill(
    items: Iterable[In], prepare: Callable[[In], Out], results: queue.Queue[tuple[bool, object]], stop: threading.Event
) -> None:
    failure: BaseException | None = None
    try:
        for item in items:
            if not _put(results, (True, prepare(item)), stop):
                return
    except BaseException as error:  # passed on, and raised in the consumer
        failure = error
    _put(results, (False, failure), stop)


def _put(results: queue.Queue[tuple[bool, object]], item: tuple[bool, object], stop: threading.Event) -> bool:
    """Put an item once there is room; return false if the consumer stopped in the meantime."""
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _copy(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
    with torch.cuda.device(device), torch.cuda.stream(stream):
        copy = _pin_memory(batch).to(device)
        return copy, stream.record_event()


def _pin_memory(batch: Batch) -> Batch:
    fields = {name: x.pin_memory() for name, x in batch.fields.items()}
    return replace(batch, row=batch.row.pin_memory(), valid=batch.valid.pin_memory(), fields=fields)
