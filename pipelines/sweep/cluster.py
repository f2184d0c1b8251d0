"""Count the room for a sweep's trials in a cluster, and index their corpora once for all of them."""

import importlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.runtime import cluster
from pipelines.runtime.cluster import CPUS_PER_READ
from pipelines.runtime.events import OnEvent
from pipelines.stream.corpora import open_corpora
from xmodal import storage

ACTOR_CPUS = 0.001  # of a trial's actor alone: its run's workers reserve their own
STEADY = "steady"  # resource of nodes that are not preempted: a trial's actor for each unit of it


@dataclass(frozen=True)
class Room:
    """The room for trials in a cluster. `per_worker` is what each train worker of a trial reserves."""

    address: str
    per_worker: Mapping[str, float]
    workers: int  # of a trial
    fixed: int | None  # trials at a time; None: as many as the cluster holds

    def count(self) -> int:
        """Return how many trials may be at work now: as many as the cluster holds, and one that waits in its queue.

        That one has its imports behind it when its turn comes, and its demand makes an autoscaler add nodes.
        """
        return self.fixed or most_at_once(self.workers, self.per_worker, cluster.capacity()) + 1

    def share(self, resources: ResourceConfig) -> ResourceConfig:
        """Return the resources of a run with what each of its workers reserves as one of several trials."""
        cpus, gpus = self.per_worker.get("CPU"), self.per_worker.get("GPU", 0.0)
        return replace(resources, cpus_per_worker=cpus, gpus_per_worker=gpus)


def steady_units() -> int:
    """Return how many actors of trials nodes that are not preempted take, by the resource `steady`."""
    return int(ray.cluster_resources().get(STEADY, 0.0))


def connect(resources: ResourceConfig, concurrent: int | None) -> Room:
    """Join the cluster, or start one on this machine, and return its room for trials.

    On this machine all train workers of all trials share one CPU slot, as those of a single run do, and there are as
    many trials as the workers of one leave cores for.
    """
    cluster.connect(resources, check=concurrent is None)
    local = (resources.address or os.environ.get("RAY_ADDRESS")) in (None, "local")
    workers = resources.sizes[0]
    per_worker = cluster.resources_per_worker(resources, cluster.capacity(), local=local)
    if local:
        concurrent = concurrent or max(1, (os.cpu_count() or 1) // workers)
        per_worker |= {"CPU": math.floor(1e4 / (resources.sizes[-1] * concurrent)) / 1e4}
    return Room(ray.get_runtime_context().gcs_address, per_worker, workers, concurrent)


def most_at_once(workers: int, per_worker: Mapping[str, float], capacity: Mapping[str, float]) -> int:
    """Return how many trials the cluster holds at a time, each with CPUs to read by; at least one."""
    needs = {name: workers * amount + (CPUS_PER_READ if name == "CPU" else 0.0) for name, amount in per_worker.items()}
    return max(1, min(int(capacity.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need > 0))


def check_run(run: Any, runs: str) -> Any:
    """Return the run's configuration with absolute paths and the very checkpoint to start from; needs no cluster.

    Raises what a trial in the folder `runs` would refuse.
    """
    stage = importlib.import_module(f"pipelines.stages.{type(run).__module__.rpartition('.')[2]}")
    checked = stage.check(replace(run, run=RunOptions(name="check", runs=runs)))[0]
    return replace(checked, run=RunOptions(name=run.run.name, runs=storage.absolute(run.run.runs)))


def index_corpora(run: Any, on_event: OnEvent) -> None:
    """Index all corpora of the run, once for all trials."""
    for uris in filter(None, (run.data.corpus, *_further_corpora(run))):
        open_corpora(replace(run.data, corpus=tuple(uris), weights=(), fields=()), on_event)


def _further_corpora(run: Any) -> list[tuple[str, ...]]:
    target = getattr(run, "target", None)
    held_out = [getattr(getattr(run, name, None), "corpus", None) for name in ("validation", "target_validation")]
    return [*([target.corpus, target.text_corpus] if target else []), *((corpus,) for corpus in held_out if corpus)]
