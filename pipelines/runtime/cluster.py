"""Connect to a Ray cluster, or start one on this machine, and check that a run's workers can start there."""

import logging
import math
import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from pipelines.config.resources import ResourceConfig
from pipelines.runtime import ray_compat
from xmodal.errors import ConfigError

CPUS_PER_READ = 0.66  # three read tasks for two cores: while one waits for storage or for Ray, no core is idle
AUTOSCALER_LIMITS = "XMODAL_CLUSTER_MOST"  # variable: what an autoscaled cluster can grow to, CPU=640,GPU=32


@dataclass(frozen=True)
class Cluster:
    """A connected cluster as a run uses it."""

    sizes: tuple[int, ...]  # numbers of train workers that the run may have, ascending
    per_worker: dict[str, float]  # resources that each of them reserves
    local: bool  # a Ray that we started on this machine

    @property
    def use_gpu(self) -> bool:
        return self.per_worker.get("GPU", 0) > 0

    @property
    def elastic(self) -> bool:
        return len(self.sizes) > 1

    def with_valid_world_sizes(self, shares: Sequence[int]) -> "Cluster":
        """Return the cluster with those sizes that divide all `shares` of a batch; of a local one only the largest."""
        valid = tuple(size for size in self.sizes if all(share % size == 0 for share in shares))
        return replace(self, sizes=valid[-1:] if self.local else valid)


def connect(resources: ResourceConfig, *, cpus: int | None = None, check: bool = True) -> Cluster:
    """Join the cluster of `resources.address` or RAY_ADDRESS, or start one on this machine.

    A Ray of our own has one CPU slot more than the machine has cores: all train workers share that slot, and Ray Data
    has a slot for every core, so that no number of workers can starve the read tasks. `cpus` overrides the number of
    cores; without `check` the workers need not fit. ConfigError where the cluster does not answer or is too small.
    """
    quiet_ray()
    address = resources.address or os.environ.get("RAY_ADDRESS")
    local = address in (None, "local")
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if local:
            _start(cpus or os.cpu_count() or 1, options)
        else:
            _join(str(address), options)
    per_worker = resources_per_worker(resources, capacity(), local=local)
    if check:
        check_fits(resources.sizes[0], per_worker, capacity())
    return Cluster(tuple(resources.sizes), per_worker, local)


def _start(cores: int, options: dict[str, Any]) -> None:
    """Start a Ray on this machine; ConfigError where it is too busy to do so in Ray's fixed limit of 30 s."""
    ray_compat.set_defaults(ray_compat.ON_A_RAY_OF_OUR_OWN)
    try:
        ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, **options)
    except Exception as error:
        if not ray_compat.is_startup_timeout(error):
            raise
        raise ConfigError(
            "Ray did not start on this machine within 30 s, which is a sign of a very busy one: try again, or join a "
            "cluster that runs by --address"
        ) from error


def _join(address: str, options: dict[str, Any]) -> None:
    """Join a cluster; ConfigError where none answers: Ray itself would try for minutes and then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # otherwise a name that Ray looks up on this machine
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if ray_compat.is_version_mismatch(error):
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"the cluster at {address} runs another Ray or Python than this one ({reason})"
            ) from error
        if ray_compat.is_wrong_token(error):
            raise ConfigError(
                f"the cluster at {address} refuses this token: set RAY_AUTH_MODE=token here, with the cluster's token "
                "in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
        raise ConfigError(
            f"no Ray cluster answers at address={address} ({error}): start one there by `ray start --head`, or leave "
            "--address and RAY_ADDRESS out to run on this machine alone"
        ) from error


def quiet_ray() -> None:
    """Silence Ray's warnings and progress bars: they stay in Ray's log files, and the run prints its own messages."""
    ray_compat.set_defaults(ray_compat.ON_EVERY_CLUSTER)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    for name in ray_compat.QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def capacity() -> dict[str, float]:
    """Return the resources of the cluster, or what its autoscaler may add to them (see `AUTOSCALER_LIMITS`)."""
    resources = dict(ray.cluster_resources())
    for part in filter(None, os.environ.get(AUTOSCALER_LIMITS, "").split(",")):
        name, _, amount = part.partition("=")
        resources[name] = max(resources.get(name, 0.0), float(amount))
    return resources


def resources_per_worker(config: ResourceConfig, available: Mapping[str, float], *, local: bool) -> dict[str, float]:
    """Return what one train worker reserves: as configured, else a GPU where there are enough, and CPUs.

    The CPUs leave at least one to read the corpus.
    """
    fewest, most = config.sizes[0], config.sizes[-1]
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if available.get("GPU", 0) >= fewest else 0.0
    cpus = config.cpus_per_worker
    if cpus is None:
        spare = available.get("CPU", 0) - 1
        cpus = 1 / most if local or spare <= 0 else min(1.0, spare / fewest)
        cpus = math.floor(1e4 * cpus) / 1e4  # Ray counts resources in 1e-4
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def check_fits(workers: int, per_worker: Mapping[str, float], available: Mapping[str, float]) -> None:
    """Raise ConfigError for workers that the cluster can never hold, or that leave no CPU to read the corpus."""
    for name, amount in per_worker.items():
        most = int(available.get(name, 0) / amount + 1e-9) if amount else workers
        if most < workers:
            raise ConfigError(
                f"workers={workers} with {amount:g} {name} each can never start: the cluster has "
                f"{available.get(name, 0):g} {name}, enough for {most}; lower --workers or "
                f"--{name.lower()}s-per-worker, or add nodes"
            )
    if available.get("CPU", 0) - workers * per_worker["CPU"] < CPUS_PER_READ - 1e-6:
        raise ConfigError(
            f"workers={workers} with {per_worker['CPU']:g} CPU each leave none of the cluster's "
            f"{available.get('CPU', 0):g} CPU to read the corpus: lower --workers or --cpus-per-worker, or add nodes"
        )
