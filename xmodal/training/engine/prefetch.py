"""Host batches in, the same batches on the device out, copied while the device works."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import torch

from xmodal.batch import Batch

In = TypeVar("In")
Out = TypeVar("Out")


def to_device(batches: Iterable[Batch], device: torch.device | str, *, depth: int = 2) -> Iterator[Batch]:
    """The batches on `device`, up to `depth` of them ahead; on a CPU just the batches.

    A thread pins each batch and copies it on a stream of its own; the consumer's stream waits for that copy alone.
    """
    device = torch.device(device)
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    side = torch.cuda.Stream(device)
    with closing(ahead(batches, lambda batch: _copy(batch, device, side), depth=depth)) as copies:
        for batch, ready in copies:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(ready)
            for x in (batch.row, batch.valid, *batch.fields.values()):
                x.record_stream(stream)  # or the allocator may reuse it while this stream still reads
            yield batch


def ahead(items: Iterable[In], prepare: Callable[[In], Out], *, depth: int) -> Generator[Out, None, None]:
    """`map(prepare, items)` in a thread, at most `depth` results ahead; its exception is raised here, in its place.

    Closing the generator ends the thread, at the latest when its running `next(items)` returns.
    """
    results: queue.Queue[tuple[bool, object]] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, prepare, results, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            more, result = results.get()
            if more:
                yield result  # type: ignore[misc]
            elif isinstance(result, BaseException):
                raise result
            else:
                return
    finally:
        stop.set()


def _fill(items: Iterable, prepare: Callable, results: queue.Queue, stop: threading.Event) -> None:
    last: BaseException | None = None
    try:
        for item in items:
            if not _put(results, (True, prepare(item)), stop):
                return
    except BaseException as error:  # handed over, and raised in the consumer
        last = error
    _put(results, (False, last), stop)


def _put(results: queue.Queue, item: tuple[bool, object], stop: threading.Event) -> bool:
    """Wait for room, but not for a consumer that has gone."""
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _copy(batch: Batch, device: torch.device, side: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
    with torch.cuda.device(device), torch.cuda.stream(side):
        copied = _pinned(batch).to(device)
        return copied, side.record_event()


def _pinned(batch: Batch) -> Batch:
    fields = {name: x.pin_memory() for name, x in batch.fields.items()}
    return replace(batch, row=batch.row.pin_memory(), valid=batch.valid.pin_memory(), fields=fields)
