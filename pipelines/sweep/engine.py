"""Carry a sweep by `ray.tune.Tuner`, from the start or from where it was killed.

Tune places trials on the cluster, retries them, draws points by its searchers and stops trials by its schedulers. What
stays ours, and why:

- the records (`trial_store`): a sweep that is resumed must repeat no finished trial, and read no pickle from storage
  that others may write to, which is what Tune's own state is;
- the process of a trial (`trial_process`): Ray Train's workers end with it, which Tune's actor cannot promise;
- what Tune lacks: a baseline, guards relative to it, a grace until lambda has come near its peak (`schedulers`), the
  repeats of finalists (`finalists`) and the choice within one standard error (`xmodal.search.choice`).

A population (pbt, pb2) is a second Tuner after that of the baseline, since Tune accepts no searcher beside it.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from pipelines.config.resources import ResourceConfig
from pipelines.config.sweep import SweepConfig
from pipelines.runtime import cluster
from pipelines.sweep.plan import Plan, prepare
from pipelines.sweep.recorder import OnSweepEvent, RecordingCallback, SweepRecorder
from pipelines.sweep.schedulers import SweepScheduler, make_scheduler
from pipelines.sweep.search_algorithm import SweepSearch
from pipelines.sweep.trainable import trainable_class
from pipelines.sweep.trial_store import as_begun, open_store
from xmodal.search.choice import ChosenConfig, choose
from xmodal.search.trial import CLONE, SEARCH, WAITING, Trial

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each run writes its own metrics
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report has the metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are recorded, and shown in a line
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # a snapshot that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the driver, and with its job every actor
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """Where a sweep ended; `chosen` is None where nothing finished, or where several metrics leave no order."""

    uri: str
    trials: Sequence[Trial]
    chosen: ChosenConfig | None
    plan: Plan


def run(config: SweepConfig, on_event: OnSweepEvent = lambda event: None) -> SweepResult:
    """Carry the sweep to its end, from the start or (with `resume`) from where it was killed.

    Raises what is wrong with the ranges, the metric, the run's configuration, its storage or its corpora before a
    trial starts; a trial that fails afterwards is recorded, and the sweep goes on.
    """
    plan = prepare(as_begun(config), on_event)
    if plan.address is None:  # trials that need no cluster: Tune needs one all the same
        cluster.connect(ResourceConfig(), check=False)
    recorder = SweepRecorder(plan, open_store(plan.config), on_event)
    with recorder.store_at_end():
        _tune(recorder, SweepSearch(recorder), samples=-1)
        if plan.population_based and recorder.mistake is None and (members := _members(recorder)):
            _tune(recorder, BasicVariantGenerator(), samples=1, members=members)
    if recorder.mistake is not None:
        raise recorder.mistake
    trials = recorder.store.trials
    chosen = choose(trials, plan.space, plan.by[0]) if len(plan.by) == 1 else None
    return SweepResult(uri=recorder.store.uri, trials=trials, chosen=chosen, plan=plan)


def _tune(
    recorder: SweepRecorder, search: Searcher | SearchAlgorithm, *, samples: int, members: Sequence[Trial] = ()
) -> None:
    plan = recorder.plan
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is recorded, and shown in a line
    os.environ.update(TUNE_SETTINGS | {"TUNE_MAX_PENDING_TRIALS_PG": str(max(plan.concurrent, len(members)))})
    inner = make_scheduler(plan, members=members)
    with tempfile.TemporaryDirectory(prefix="xmodal-tune-") as scratch:
        tune.Tuner(
            trainable_class(plan.spec),
            param_space={"trial": tune.grid_search([plan.trial_config(trial) for trial in members])} if members else {},
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=SweepScheduler(inner, recorder, members=members),
                num_samples=samples,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                stop=_StopAtMistake(recorder),
                callbacks=[RecordingCallback(recorder)],
                failure_config=tune.FailureConfig(max_failures=plan.config.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _members(recorder: SweepRecorder) -> list[Trial]:
    """Return the population, drawn where the sweep begins; of one that is resumed those that are not over."""
    store, plan = recorder.store, recorder.plan
    points = SweepSearch(recorder).points
    while sum(trial.kind == SEARCH for trial in store.trials) < plan.draw_count:
        point = points.draw(store.next_number())
        if point is None:
            break
        store.add(point)
    return [trial for trial in store.trials if trial.kind in (SEARCH, CLONE) and trial.status == WAITING]


class _StopAtMistake(tune.Stopper):
    """Ends the whole sweep at a mistake that every trial would make."""

    def __init__(self, recorder: SweepRecorder) -> None:
        self._recorder = recorder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._recorder.mistake is not None
