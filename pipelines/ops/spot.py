"""Watch for the notice that AWS will take this spot machine away, and drain its Ray node in time.

AWS announces the end of a spot instance in its metadata two minutes ahead, and nothing else tells Ray. A drained node
gets no new work, and Ray Train tells its ranks, which save a checkpoint.
"""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import ray

from pipelines.config.spot import METADATA, SpotConfig
from pipelines.runtime import ray_compat
from xmodal.callbacks import Notify
from xmodal.errors import ConfigError

TOKEN_SECONDS = 21600
REQUEST_S = 2.0
MARGIN_S = 10.0  # the node is drained this long before AWS takes it
MIN_DRAIN_S = 1.0


@dataclass(frozen=True)
class SpotNotice:
    """What AWS is going to do with this machine."""

    action: str
    at: datetime


class Metadata:
    """A client of the instance metadata service, version 2: every request carries a session token."""

    def __init__(self, url: str = METADATA) -> None:
        self._url = url
        self._token: str | None = None

    def notice(self) -> SpotNotice | None:
        """Return the notice, None while there is none; OSError where the service does not answer."""
        for _ in range(2):  # a token may have expired
            try:
                notice = json.loads(self._get("/latest/meta-data/spot/instance-action"))
                return SpotNotice(notice["action"], _time(notice["time"]))
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401:
                    raise
                self._token = None
        raise OSError(f"{self._url} refuses its own tokens")

    def _get(self, path: str) -> bytes:
        if self._token is None:
            lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            self._token = self._ask("PUT", "/latest/api/token", lifetime).decode()
        return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        request = urllib.request.Request(self._url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
            return answer.read()


def _time(text: str) -> datetime:
    """Parse a time as AWS writes it: 2017-09-18T08:22:00Z."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def run(config: SpotConfig, *, notify: Notify) -> SpotNotice:
    """Wait for a notice, unless the end is known already (`config.now_s`), then drain this machine's node."""
    if config.now_s is None:
        notice = wait_for_notice(config, notify)
        notify(f"AWS will {notice.action} this machine at {notice.at.isoformat()}")
    else:
        notice = SpotNotice("terminate", datetime.now(UTC) + timedelta(seconds=config.now_s))
    drain(config.address, config.node_id or local_node_id(config.address), notice, notify)
    return notice


def wait_for_notice(config: SpotConfig, notify: Notify) -> SpotNotice:
    """Poll the metadata service until there is a notice; where it does not answer, polling goes on."""
    metadata, unreachable = Metadata(config.metadata), False
    while True:
        try:
            if notice := metadata.notice():
                return notice
            unreachable = False
        except (OSError, ValueError, KeyError) as error:
            if not unreachable:
                notify(f"the metadata service does not answer ({error}); asking again")
            unreachable = True
        time.sleep(config.every_s)


def local_node_id(address: str) -> str:
    """Return the id of this machine's live node; ConfigError where the cluster has none, with those that it has."""
    ip = ray.util.get_node_ip_address()
    alive = ray_compat.live_nodes(address)
    if ip not in alive:
        raise ConfigError(f"the cluster at {address} has no node at {ip}: give --node-id; it has {', '.join(alive)}")
    return alive[ip]


def drain(address: str, node_id: str, notice: SpotNotice, notify: Notify, *, tries: int = 5) -> None:
    """Drain a node shortly before the time of the notice; tried again where the cluster does not take it."""
    remaining_s = max((notice.at - datetime.now(UTC)).total_seconds() - MARGIN_S, MIN_DRAIN_S)
    deadline_ms = int((time.time() + remaining_s) * 1000)
    problem = ""
    for _ in range(tries):
        try:
            reason = f"spot notice: {notice.action}"
            accepted, problem = ray_compat.drain_node(address, node_id, reason, deadline_ms)
        except (OSError, ray.exceptions.RaySystemError, ray.exceptions.RpcError) as error:
            accepted, problem = False, str(error)
        if accepted:
            notify(f"drained node {node_id}, which is gone in {remaining_s:.0f} s")
            return
        time.sleep(1)
    raise ConfigError(f"the cluster at {address} does not drain node {node_id}: {problem}")
