"""Configuration of the workers of a run, and of what each takes of the cluster."""

import math
from dataclasses import dataclass

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """How many workers train, and what each of them takes of the cluster."""

    workers: int | str = 1  # number of Ray Train workers, e.g. 4; 2:8 starts with 2 and grows with the cluster up to 8
    gpus_per_worker: float | None = None
    """number of GPUs of each worker; None: 1 where the cluster has that many GPUs, else 0"""
    cpus_per_worker: float | None = None
    """number of CPUs of each worker; None: 1 on a cluster; on this machine all workers share
    one CPU of Ray's"""
    address: str | None = None
    """address of a running Ray cluster, e.g. 10.0.0.5:6379; None: RAY_ADDRESS, else a Ray is
    started on this machine"""

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1:
            raise ConfigError(f"workers must be at least 1, not {self.workers}: write 4, or 2:8 for 2 to 8")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < math.inf:
            raise ConfigError(f"gpus_per_worker={self.gpus_per_worker} must not be negative")
        if self.cpus_per_worker is not None and not 0 < self.cpus_per_worker < math.inf:
            raise ConfigError(f"cpus_per_worker={self.cpus_per_worker} must be positive")

    @property
    def sizes(self) -> range:
        """The numbers of workers that are allowed: one, or from the fewest to the most."""
        fewest, colon, most = str(self.workers).partition(":")
        try:
            return range(int(fewest), int(most if colon else fewest) + 1)
        except ValueError as error:
            raise ConfigError(f"workers={self.workers!r} is not a number of workers: write 4, or 2:8") from error
