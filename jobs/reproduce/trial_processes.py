"""Run the trials of an experiment, several at once in processes of their own (which import this module)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jobs.reproduce.catalogue import ExperimentName
from jobs.reproduce.runner import runner_of

ArmAndSeed = tuple[str, int]


def run_trials(
    name: ExperimentName, settings: object, to: str, folder: Path, trials: Sequence[ArmAndSeed], processes: int
) -> Iterator[tuple[str, int, dict[str, object]]]:
    """Yield arm, seed and result of every trial as it ends, `processes` at once; one process: in this one."""
    common = (name, settings, to, folder)
    if processes == 1 or not trials:
        yield from ((arm, seed, run_trial(*common, arm, seed)) for arm, seed in trials)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(run_trial, *common, arm, seed): (arm, seed) for arm, seed in trials}
        try:
            for future in as_completed(pending):
                yield *pending[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run_trial(name: ExperimentName, settings: Any, to: str, folder: Path, arm: str, seed: int) -> dict[str, object]:
    """Return the result of one trial."""
    return runner_of(name, folder).run_trial(arm, seed, settings, to)
