"""A Ray cluster of one node with a job server and a token, as `ray start --head` starts it, ended by its process id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import fork_server
from xmodal.data import synthetic

TOKEN = "0123456789abcdef0123456789abcdef"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """The addresses of a cluster's job server and of its Ray, and the file of its token."""

    jobs: str
    ray: str
    token_file: Path

    def environment(self) -> dict[str, str]:
        """Return the environment of a person's shell: without variables of Ray, with this Python first."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return variables | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def free_ports(number: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def head(forked_workers):
    """Start a cluster whose workers have imported the pipelines of this tree; the driver of a job has those it sent."""
    folder = Path(tempfile.mkdtemp(prefix="xh", dir="/tmp"))  # sockets have short names
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    port, dashboard, client, agent = free_ports(4)
    cluster = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", token_file)
    command = fork_server.command(
        "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}",
        "--num-cpus=3", "--object-store-memory=200000000", "--node-ip-address=127.0.0.1", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
    )  # fmt: skip
    environment = cluster.environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(cluster, process, folder / "head.log")
        yield cluster
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(cluster: Head, process: subprocess.Popen, log: Path) -> None:
    request = urllib.request.Request(f"{cluster.jobs}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A tar corpus of 96 captioned scenes of 32 px."""
    folder = tmp_path_factory.mktemp("pairs")
    synthetic.write_corpus(str(folder), "photo", 96, 0, rows_per_shard=48, size=32)
    return str(folder)
