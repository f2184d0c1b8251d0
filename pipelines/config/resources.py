"""Workers and what one of them takes: what a run asks of the cluster."""

import math
from dataclasses import dataclass

from xmodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run asks of the cluster."""

    workers: int | str = 1  # Ray Train workers, e.g. 4; 2:8 starts with 2 and grows with the cluster up to 8
    gpus_per_worker: float | None = None  # None: 1 where the cluster has that many GPUs, else 0
    cpus_per_worker: float | None = None  # None: 1 on a cluster; on this machine all workers share one CPU slot
    address: str | None = None  # of a running cluster; None: RAY_ADDRESS, else a Ray of our own on this machine

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1:
            raise ConfigError(f"workers must be at least 1, not {self.workers}: write 4, or 2:8 for 2 to 8")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < math.inf:
            raise ConfigError(f"gpus_per_worker={self.gpus_per_worker} must not be negative")
        if self.cpus_per_worker is not None and not 0 < self.cpus_per_worker < math.inf:
            raise ConfigError(f"cpus_per_worker={self.cpus_per_worker} must be positive")

    @property
    def sizes(self) -> range:
        """The numbers of workers that were asked for: one, or from the fewest to the most."""
        fewest, colon, most = str(self.workers).partition(":")
        try:
            return range(int(fewest), int(most if colon else fewest) + 1)
        except ValueError as error:
            raise ConfigError(f"workers={self.workers!r} is no number of workers: write 4, or 2:8") from error
