"""Configuration of jobs.spot: which node is watched, and how often."""

from dataclasses import dataclass

from xmodal.errors import ConfigError

METADATA = "http://169.254.169.254"


@dataclass(frozen=True, kw_only=True)
class SpotConfig:
    """Which node is watched, and how often."""

    address: str  # address of the cluster's Ray, e.g. $RAY_HEAD_IP:6379
    node_id: str | None = None  # Ray's id of the node that is drained; None: the node on this machine
    every_s: float = 5.0  # seconds between two questions to the metadata service; AWS advises 5
    metadata: str = METADATA  # URL of the instance metadata service
    now_s: float | None = None
    """do not watch, but drain the node at once: the machine stops in this many seconds; None:
    watch"""

    def __post_init__(self) -> None:
        if not 0 < self.every_s <= 60:
            raise ConfigError(f"every_s={self.every_s} must lie in (0, 60]: a notice comes two minutes ahead")
