"""The notice that a spot machine will be taken away in; a Ray drain of this machine's node out.

AWS announces the end of a spot instance in its metadata two minutes ahead, and nobody else tells Ray. A drained node
gets no new work, and Ray Train lets its ranks know, which answer with a checkpoint.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

from pipelines.config.spot import METADATA, Config
from xmodal.errors import ConfigError

TOKEN_SECONDS = 21600
REQUEST_S = 2.0
SPARE_S = 10.0  # the node counts as gone this long before AWS takes it
LEAST_S = 1.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Notice:
    """What AWS is going to do with this machine, and when (UTC)."""

    action: str
    at: datetime


class Metadata:
    """The instance metadata service, version 2: every question carries a session token."""

    def __init__(self, url: str = METADATA) -> None:
        self._url = url
        self._token: str | None = None

    def notice(self) -> Notice | None:
        """The notice, or None while there is none. OSError where the service does not answer."""
        for _ in range(2):  # a token may have expired
            try:
                found = json.loads(self._get("/latest/meta-data/spot/instance-action"))
                return Notice(found["action"], _time(found["time"]))
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
    """As AWS writes it: 2017-09-18T08:22:00Z."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def run(config: Config, *, say: Say) -> Notice:
    """Wait for a notice (unless it is known already), then drain this machine's node."""
    if config.now_s is None:
        notice = wait_for_notice(config, say)
        say(f"AWS will {notice.action} this machine at {notice.at.isoformat()}")
    else:
        notice = Notice("terminate", datetime.now(UTC) + timedelta(seconds=config.now_s))
    drain(config.address, config.node_id or node_here(config.address), notice, say)
    return notice


def wait_for_notice(config: Config, say: Say) -> Notice:
    """Ask until there is one; a metadata service that does not answer is asked on."""
    metadata, mute = Metadata(config.metadata), False
    while True:
        try:
            if notice := metadata.notice():
                return notice
            mute = False
        except (OSError, ValueError, KeyError) as error:
            if not mute:
                say(f"the metadata service does not answer ({error}); asking on")
            mute = True
        time.sleep(config.every_s)


def node_here(address: str) -> str:
    """The id of the live node of this machine; ConfigError where the cluster knows none, with those it knows."""
    ip = ray.util.get_node_ip_address()
    nodes = GcsClient(address=address).get_all_node_info()
    alive = {info.node_manager_address: node.hex() for node, info in nodes.items() if info.state == info.ALIVE}
    if ip not in alive:
        raise ConfigError(f"the cluster at {address} has no node at {ip}: give --node-id; it has {', '.join(alive)}")
    return alive[ip]


def drain(address: str, node_id: str, notice: Notice, say: Say, *, tries: int = 5) -> None:
    """Tell the cluster that the node goes at the time of the notice, less a little; asked again where it fails."""
    left_s = max((notice.at - datetime.now(UTC)).total_seconds() - SPARE_S, LEAST_S)
    deadline_ms = int((time.time() + left_s) * 1000)
    problem = ""
    for _ in range(tries):
        try:
            accepted, problem = GcsClient(address=address).drain_node(
                node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, f"spot notice: {notice.action}", deadline_ms
            )
        except (OSError, ray.exceptions.RaySystemError, ray.exceptions.RpcError) as error:
            accepted, problem = False, str(error)
        if accepted:
            say(f"drained node {node_id}, which is gone in {left_s:.0f} s")
            return
        time.sleep(1)
    raise ConfigError(f"the cluster at {address} does not drain node {node_id}: {problem}")
