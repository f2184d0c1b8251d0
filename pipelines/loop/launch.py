"""Start the ranks of a run from the driver, wait for them, and say why they failed."""

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig  # what ray.train has, for a type checker too

from pipelines.loop.train import RankJob, train_rank
from pipelines.runtime import elastic
from pipelines.runtime.cluster import Cluster
from pipelines.runtime.event_queue import forward_events, start_event_queue
from pipelines.runtime.events import OnEvent
from xmodal import errors
from xmodal.errors import XmodalError
from xmodal.training.engine.memory import MALLOC_SETTINGS

COLLECTIVE_TIMEOUT_S = 600


class RunFailed(XmodalError):
    """A run that its restarts could not carry to the end."""

    exit_code = 1


def launch(make_job: Callable[[Any], RankJob], cluster: Cluster, on_event: OnEvent) -> None:
    """Run a job's ranks to the end; `on_event` receives their events, in order, from a thread of the driver.

    `make_job` is given the handle of the `EventQueue`. Raises what stopped the run: one of STOPS, or RunFailed when
    restarts did not help.
    """
    queue = start_event_queue()
    job = make_job(queue)
    restarts = job.config.checkpoints.restarts
    with tempfile.TemporaryDirectory(prefix="xmodal-ray-") as scratch, forward_events(queue, on_event) as stops:
        trainer = elastic.make_trainer(
            cluster,
            train_rank,
            train_loop_config={"job": ray.put(job)},  # so that Ray's controller need not import the model
            torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
            run_config=RunConfig(
                name="ray",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=restarts),  # preemptions are not counted
                worker_runtime_env={"env_vars": {x: os.environ.get(x, value) for x, value in MALLOC_SETTINGS.items()}},
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RunFailed(
                f"the run {job.run.name!r} failed after {restarts} restart(s); what it has is in "
                f"{job.run.uri}, and --resume continues it. The last failure: {_root_cause(error)}"
            ) from error
    if stops:
        raise getattr(errors, stops[0].error)(stops[0].message)


def _root_cause(error: BaseException) -> str:
    """Return what a person can act on: the first error of ours behind any rank's failure, else the last line of all."""
    chain = list(_causes(error))
    ours = [e for e in chain if isinstance(e, XmodalError) and not isinstance(e, ray.exceptions.RayError)]
    if ours:  # a rank may have failed only because another one did
        return str(ours[0]).partition("\n")[0]  # Ray Data adds lines about its own settings
    lines = [line.strip() for e in chain[1:] or chain for line in str(e).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then its causes; Ray keeps those of ranks, tasks and controller in attributes."""
    yield error
    by_rank = getattr(error, "worker_failures", None) or {}
    causes = [by_rank[rank] for rank in sorted(by_rank)]
    causes += [getattr(error, name, None) for name in ("controller_failure", "cause", "__cause__")]
    for cause in dict.fromkeys(causes):
        if isinstance(cause, BaseException):
            yield from _causes(cause)
