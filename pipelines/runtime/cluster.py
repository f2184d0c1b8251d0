"""The cluster as a run sees it: connecting, what it can hold, one rank's place in it, and news to the driver."""

import logging
import math
import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from pipelines.config.resources import Resources
from xmodal.errors import ConfigError

QUIET_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray._private")
CPUS_PER_READ = 0.66  # three read tasks for two cores: while one waits for storage or for Ray, no core is idle
ALONE = {  # for a Ray of our own, which has neither dashboard nor neighbours: what nobody reads is not measured
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
}
MOST = "XMODAL_CLUSTER_MOST"  # what a cluster that grows by itself may come to hold, e.g. CPU=640,GPU=32


@dataclass(frozen=True)
class Cluster:
    """A connected cluster, the numbers of train workers that a run may have there, and what one of them holds."""

    sizes: tuple[int, ...]
    per_worker: dict[str, float]
    local: bool

    @property
    def use_gpu(self) -> bool:
        return self.per_worker.get("GPU", 0) > 0

    @property
    def elastic(self) -> bool:
        return len(self.sizes) > 1

    def fitting(self, parts: Sequence[int]) -> "Cluster":
        """The same with the sizes that divide all `parts` of a global batch; on this machine the largest of them."""
        fit = tuple(size for size in self.sizes if all(part % size == 0 for part in parts))
        return replace(self, sizes=fit[-1:] if self.local else fit)


def connect(resources: Resources, *, cpus: int | None = None, check: bool = True) -> Cluster:
    """Join the cluster of `resources.address` or RAY_ADDRESS, or start one on this machine.

    A Ray of our own has one CPU slot more than the machine has cores: the train workers share that slot, however many
    they are, and Ray Data keeps a slot for every core. So the machine is oversubscribed by one slot, and no number of
    workers can starve the readers. `cpus` overrides the number of cores; without `check` workers need not fit.
    """
    quiet()
    address = resources.address or os.environ.get("RAY_ADDRESS")
    local = address in (None, "local")
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        if local:
            _start(cpus or os.cpu_count() or 1, options)
        else:
            _join(str(address), options)
    per_worker = share_of(resources, capacity(), local=local)
    if check:
        check_fits(resources.sizes[0], per_worker, capacity())
    return Cluster(tuple(resources.sizes), per_worker, local)


def _start(cores: int, options: dict[str, Any]) -> None:
    """ConfigError where the machine is too busy for Ray's 30 seconds, which no setting changes."""
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address="local", num_cpus=cores + 1, include_dashboard=False, **options)
    except Exception as error:  # it has no class of its own
        if "timed out during startup" not in str(error):
            raise
        raise ConfigError(
            "Ray did not start on this machine within 30 s, which is a sign of a very busy one: try again, or join a "
            "cluster that runs by --address"
        ) from error


def _join(address: str, options: dict[str, Any]) -> None:
    """ConfigError where no cluster answers: Ray itself would try for minutes, and then end the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # otherwise a name that Ray looks up on this machine
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if "Version mismatch" in str(error):
            told = " ".join(str(error).split())
            raise ConfigError(f"the cluster at {address} is another Ray or Python than this one ({told})") from error
        if "InvalidAuthToken" in str(error) or "Unauthenticated" in str(error):
            raise ConfigError(
                f"the cluster at {address} refuses this token: set RAY_AUTH_MODE=token here, with the cluster's token "
                "in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
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


def capacity() -> dict[str, float]:
    """What the cluster holds, or may come to hold where it starts nodes by itself (its start commands say so)."""
    have = dict(ray.cluster_resources())
    for part in filter(None, os.environ.get(MOST, "").split(",")):
        name, _, amount = part.partition("=")
        have[name] = max(have.get(name, 0.0), float(amount))
    return have


def share_of(resources: Resources, have: Mapping[str, float], *, local: bool) -> dict[str, float]:
    """What one train worker takes: as asked for, else a GPU where there are enough, and CPUs that leave one to read."""
    fewest, most = resources.sizes[0], resources.sizes[-1]
    gpus = resources.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if have.get("GPU", 0) >= fewest else 0.0
    cpus = resources.cpus_per_worker
    if cpus is None:
        left = have.get("CPU", 0) - 1
        cpus = 1 / most if local or left <= 0 else min(1.0, left / fewest)
        cpus = math.floor(1e4 * cpus) / 1e4  # Ray counts resources in 1e-4
    return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})


def check_fits(workers: int, per_worker: Mapping[str, float], have: Mapping[str, float]) -> None:
    """Refuse what the cluster can never hold, and workers that leave no CPU to those who read."""
    for name, amount in per_worker.items():
        most = int(have.get(name, 0) / amount + 1e-9) if amount else workers
        if most < workers:
            raise ConfigError(
                f"workers={workers} with {amount:g} {name} each can never start: the cluster has "
                f"{have.get(name, 0):g} {name}, enough for {most}; lower --workers or --{name.lower()}s-per-worker, "
                "or add nodes"
            )
    if have.get("CPU", 0) - workers * per_worker["CPU"] < CPUS_PER_READ - 1e-6:
        raise ConfigError(
            f"workers={workers} with {per_worker['CPU']:g} CPU each leave none of the cluster's {have.get('CPU', 0):g} "
            "CPU to read the corpus: lower --workers or --cpus-per-worker, or add nodes"
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
