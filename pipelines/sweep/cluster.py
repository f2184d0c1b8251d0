"""A sweep's part of the cluster: what a trial asks for in; the cluster's address and how many trials fit, out."""

import importlib
import math
import os
from dataclasses import replace
from typing import Any

import ray

from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.runtime import cluster
from pipelines.runtime.cluster import CPUS_PER_READ
from pipelines.runtime.events import OnEvent
from pipelines.stream.corpora import open_corpora
from xmodal import storage


def connect(resources: ResourceConfig, wanted: int | None) -> tuple[str, int, dict[str, float]]:
    """Address, trials at a time, and what each train worker takes.

    On this machine all train workers of all trials share one CPU slot, as those of a single run do, and there are as
    many trials as the workers of one leave cores for. On a cluster as many as it holds, each with CPUs to read by.
    """
    cluster.connect(resources, check=wanted is None)
    local = (resources.address or os.environ.get("RAY_ADDRESS")) in (None, "local")
    workers = resources.sizes[0]
    have = cluster.capacity()
    share = cluster.resources_per_worker(resources, have, local=local)
    if local:
        count = wanted or max(1, (os.cpu_count() or 1) // workers)
        share |= {"CPU": math.floor(1e4 / (resources.sizes[-1] * count)) / 1e4}
    else:
        count = wanted or most_at_once(workers, share, have)
    return ray.get_runtime_context().gcs_address, count, share


def most_at_once(workers: int, share: dict[str, float], have: dict[str, float]) -> int:
    """Trials that the cluster holds beside each other, at least one."""
    needs = {name: workers * amount + (CPUS_PER_READ if name == "CPU" else 0.0) for name, amount in share.items()}
    return max(1, min(int(have.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need > 0))


def checked(run: Any, runs: str) -> Any:
    """The run's configuration with absolute places and the very checkpoint to start from; needs no cluster.

    Raises what a trial, which lies in `runs` and not where the run says, would refuse.
    """
    pipeline = importlib.import_module(f"pipelines.stages.{type(run).__module__.rpartition('.')[2]}")
    found = pipeline.check(replace(run, run=RunOptions(name="check", runs=runs)))[0]
    return replace(found, run=RunOptions(name=run.run.name, runs=storage.absolute(run.run.runs)))


def index(run: Any, on_event: OnEvent) -> None:
    """Index all corpora of the run, once for all trials."""
    for uris in filter(None, (run.data.corpus, *_further(run))):
        open_corpora(replace(run.data, corpus=tuple(uris), weights=(), fields=()), on_event)


def _further(run: Any) -> list[tuple[str, ...]]:
    target = getattr(run, "target", None)
    held_out = [getattr(getattr(run, name, None), "corpus", None) for name in ("validation", "target_validation")]
    return [*([target.corpus, target.text_corpus] if target else []), *((one,) for one in held_out if one)]
