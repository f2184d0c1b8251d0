"""What jobs.spot is asked: which node to watch over, and how closely."""

from dataclasses import dataclass

from xmodal.errors import ConfigError

METADATA = "http://169.254.169.254"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which node is watched over, and how closely."""

    address: str  # of the cluster's Ray, e.g. $RAY_HEAD_IP:6379
    node_id: str | None = None  # of the node to drain; None: the one at this machine's address
    every_s: float = 5.0  # AWS's own advice
    metadata: str = METADATA  # the instance metadata service
    now_s: float | None = None  # do not watch: the machine goes in that many seconds

    def __post_init__(self) -> None:
        if not 0 < self.every_s <= 60:
            raise ConfigError(f"every_s={self.every_s} must lie in (0, 60]: a notice comes two minutes ahead")
