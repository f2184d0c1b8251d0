"""Jobs -> results in worker processes that end with their parent, as they come."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from xmodal.errors import XmodalError

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Results as they come; a few jobs wait beside those at work. One worker is this process: it starts at once."""
    if workers <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of storage
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    waiting: set[Future[Result]] = set()
    try:
        for job in jobs:
            waiting.add(pool.submit(function, job))
            if len(waiting) > 2 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as cause:
        raise XmodalError(
            "a worker process died, perhaps for lack of memory; run the same command again to go on, "
            "with fewer --workers or smaller shards in a new target"
        ) from cause
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """A worker of a parent that was killed would wait for its next job for ever; Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
