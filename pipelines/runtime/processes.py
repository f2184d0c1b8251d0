"""Run jobs in worker processes that end with their parent."""

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


def map_in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """Apply a function to jobs in `workers` processes; yield results as they come. One worker is this process itself.

    Only a few jobs are drawn ahead. XmodalError where a worker dies.
    """
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
    """End this worker when its parent ends, even if that is killed; Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def exit_after_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=exit_after_parent, daemon=True).start()
