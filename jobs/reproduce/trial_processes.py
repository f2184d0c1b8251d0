"""Arms and seeds of an experiment in; what each trial found out, as it ends. (Spawned processes import this module.)"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from jobs.reproduce import catalogue
from jobs.reproduce.catalogue import Name

Trial = tuple[str, int]  # arm, seed


def ended(
    name: Name, settings: Any, place: str, todo: Sequence[Trial], processes: int
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Arm, seed and result of every trial, so many of them at once; with one process, in this one."""
    if processes == 1 or not todo:
        yield from ((arm, seed, one(name, settings, place, arm, seed)) for arm, seed in todo)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(one, name, settings, place, arm, seed): (arm, seed) for arm, seed in todo}
        try:
            for done in as_completed(pending):
                yield *pending[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one(name: Name, settings: Any, place: str, arm: str, seed: int) -> dict[str, Any]:
    """One trial, whole."""
    return catalogue.experiment(name).trial(name, arm, seed, settings, place)
