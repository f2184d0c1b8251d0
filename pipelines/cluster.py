"""The cluster as a run sees it: connecting, what it can hold, one rank's place in it, and news to the driver."""

import logging
import math
import os
import socket
import warnings
from dataclasses import dataclass, field
from typing import Any

import ray

from xmodal.errors import ConfigError

QUIET_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray._private")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run asks of the cluster."""

    workers: int = 1  # Ray Train workers; the stream and the learning do not depend on it
    gpus_per_worker: float | None = None  # None: 1 where the cluster has that many GPUs, else 0
    cpus_per_worker: float | None = None  # None: 1 on a cluster; on this machine all workers share one CPU slot
    address: str | None = None  # of a running cluster; None: RAY_ADDRESS, else a Ray of our own on this machine

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, not {self.workers}")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < math.inf:
            raise ConfigError(f"gpus_per_worker={self.gpus_per_worker} must not be negative")
        if self.cpus_per_worker is not None and not 0 < self.cpus_per_worker < math.inf:
            raise ConfigError(f"cpus_per_worker={self.cpus_per_worker} must be positive")


@dataclass(frozen=True)
class Cluster:
    """A connected cluster and what one train worker holds of it."""

    workers: int
    per_worker: dict[str, float]
    local: bool

    @property
    def use_gpu(self) -> bool:
        return self.per_worker.get("GPU", 0) > 0

    @property
    def reserved(self) -> dict[str, float]:
        """What all train workers hold together: Ray Data plans with the rest."""
        return {name: amount * self.workers for name, amount in self.per_worker.items()}


def connect(resources: Resources, *, cpus: int | None = None) -> Cluster:
    """Join the cluster of `resources.address` or RAY_ADDRESS, or start one on this machine.

    A Ray of our own has one CPU slot more than the machine has cores: the train workers share that slot, however many
    they are, and Ray Data keeps a slot for every core. So the machine is oversubscribed by one slot, and no number of
    workers can starve the readers. `cpus` overrides the number of cores.
    """
    quiet()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for torch: a batch's page faults cost as its copy
    address = resources.address or os.environ.get("RAY_ADDRESS")
    local = address in (None, "local")
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if local:
            cores = cpus or os.cpu_count() or 1
            ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, **options)
        else:
            _join(str(address), options)
    per_worker = _per_worker(resources, local)
    _check_fits(resources.workers, per_worker)
    return Cluster(resources.workers, per_worker, local)


def _join(address: str, options: dict[str, Any]) -> None:
    """ConfigError where no cluster answers: Ray itself would try for minutes, and then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # otherwise a name that Ray looks up on this machine
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        ray.init(address=address, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at address={address} ({error}): start one there by `ray start --head`, or leave "
            "--address and RAY_ADDRESS out to run on this machine alone"
        ) from error


def quiet() -> None:
    """Ray's own chatter is for Ray's log files; what a person should know, the run says itself."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # nodes of a cloud boot in minutes
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "30")  # the default hides a hung rank for 600 s
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _per_worker(resources: Resources, local: bool) -> dict[str, float]:
    gpus = resources.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= resources.workers else 0.0
    cpus = resources.cpus_per_worker
    if cpus is None:
        cpus = math.floor(1e4 / resources.workers) / 1e4 if local else 1.0  # Ray counts resources in 1e-4
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def _check_fits(workers: int, per_worker: dict[str, float]) -> None:
    """Refuse what the cluster can never hold; one that scales by itself may still be starting its nodes."""
    have = ray.cluster_resources()
    for name, amount in per_worker.items():
        most = int(have.get(name, 0) / amount + 1e-9) if amount else workers
        if most < workers and not os.environ.get("RAY_AUTOSCALER_ENABLED"):
            raise ConfigError(
                f"workers={workers} with {amount:g} {name} each can never start: the cluster has "
                f"{have.get(name, 0):g} {name}, enough for {most}; lower --workers or --{name.lower()}s-per-worker, "
                "or add nodes"
            )


@dataclass
class News:
    """What the ranks tell the driver while it waits: an actor that only keeps messages."""

    messages: list[dict] = field(default_factory=list)

    def put(self, message: dict) -> None:
        self.messages.append(message)

    def take(self) -> list[dict]:
        """All messages since the last call, oldest first."""
        taken, self.messages = self.messages, []
        return taken


def news_actor() -> Any:
    """A `News` that lives as long as the driver holds it and takes no CPU slot."""
    return ray.remote(num_cpus=0)(News).remote()


def plain(value: Any) -> Any:
    """The same metrics as plain JSON values: a numpy float kills Ray Train's controller."""
    if isinstance(value, dict):
        return {str(name): plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return value.item() if hasattr(value, "item") else value
