"""A command and a cluster's job server in; it runs there as a Ray job, and its log and exit status come back."""

import asyncio
import functools
import logging
import os
import re
import shlex
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.runtime_env.packaging import create_package
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines.config.submission import Config
from xmodal.errors import ConfigError, XmodalError
from xmodal.run.provenance import COMMIT, commit

HERE = "http://127.0.0.1:8265"  # where `ray dashboard cluster.yaml` and a Ray on this machine put the job server
ADDRESS = "RAY_API_SERVER_ADDRESS"  # Ray's; it wins over RAY_ADDRESS and over what a client is told
PACKAGE_MIB = 100
EXCLUDES = (
    ".git", ".venv*", "venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "*.tar", "*.tar.gz", "*.tgz",
    "*.parquet", "*.safetensors", "*.zip", "/runs", "/data", "/build", "/dist",
)  # fmt: skip
CHATTER = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOPPED = 130
NOT_READY, READY_S = "No available agent", 120.0  # for some seconds after `ray start`
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A submission and, where it was waited for, the exit status of its command."""

    id: str
    address: str
    exit_code: int = 0


class Refused(XmodalError):
    """The job server did not take a submission."""


def run(config: Config, *, say: Say, show: Say) -> Submitted:
    """Send the command, show its log as it comes, and return its exit status; `say` hears of the submission itself.

    ConfigError: no job server, a wrong token, another Ray there, a package too large, or a job of that name that runs.
    """
    for logger in CHATTER:
        logging.getLogger(logger).setLevel(logging.ERROR)
    package = check_package(config.working_dir)
    client, address = connect(config.address, config.token, say)
    name = free_name(config.name, {job.submission_id: job.status for job in client.list_jobs() if job.submission_id})
    environment = {
        "working_dir": os.path.abspath(config.working_dir),
        "excludes": list(EXCLUDES),
        "env_vars": {COMMIT: commit(Path(config.working_dir)) or ""},
    }
    send = functools.partial(
        client.submit_job,
        entrypoint=shlex.join(config.command),
        submission_id=name,
        runtime_env=environment,
        metadata={"name": config.name},
    )
    try:
        _when_ready(send, say)
    except RuntimeError as error:
        busy = "; does another Ray run on that machine? give one of them --dashboard-agent-listen-port"
        hint = busy if NOT_READY in str(error) else ""
        raise Refused(f"{address} did not take the job {name!r}: {str(error).rstrip('. ')}{hint}") from error
    say(f"submitted {name} to {address} ({package / 2**20:.1f} MiB of code)")
    if not config.wait:
        say(f"its log: ray job logs --follow {name} --address {address}")
        return Submitted(id=name, address=address)
    try:
        return Submitted(id=name, address=address, exit_code=follow(client, name, say, show))
    except KeyboardInterrupt:
        say(f"{name} goes on; its log: ray job logs --follow {name} --address {address}")
        say(f"to end it: ray job stop {name} --address {address}")
        raise


def _when_ready(send: Callable[[], str], say: Say) -> None:
    """`send`, again and again while a cluster that has only just started has nobody to run it."""
    deadline, told = time.monotonic() + READY_S, False
    while True:
        try:
            send()
            return
        except RuntimeError as error:
            if NOT_READY not in str(error) or time.monotonic() > deadline:
                raise
        if not told:
            say("the cluster is still starting: waiting until it takes jobs")
        told = True
        time.sleep(1)


def preview(config: Config) -> dict[str, Any]:
    """What would be sent where, as plain JSON without the token; the job server is not asked."""
    return {
        "command": shlex.join(config.command),
        "name": config.name,
        "address": _address(config.address),
        "working_dir": os.path.abspath(config.working_dir),
        "package_mib": round(check_package(config.working_dir) / 2**20, 2),
        "excludes": list(EXCLUDES),
        "wait": config.wait,
    }


def _address(given: str | None) -> str:
    """Of the job server, as a URL; ConfigError for one of Ray itself."""
    known = os.environ.get("RAY_ADDRESS", "")
    address = given or os.environ.get(ADDRESS) or (known if known.startswith("http") else HERE)
    address = (address if "://" in address else f"http://{address}").rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"{address} is not a job server's address: write http://HOST:8265")
    return address


def connect(address: str | None, token: str | None, say: Say) -> tuple[JobSubmissionClient, str]:
    """A client of the job server and the server's address."""
    address = _address(address)
    url = urlsplit(address)
    token = token or _token()
    if token and url.scheme == "http" and url.hostname not in LOOPBACK:
        say(f"the token travels to {url.hostname} unencrypted: use `ray dashboard cluster.yaml`, a tunnel or https")
    os.environ[ADDRESS] = address
    try:
        socket.create_connection((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), 5).close()
        client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
        there = client._server_ray_version  # get_version() is that of the protocol
    except AuthenticationError as error:
        raise ConfigError(
            f"the job server at {address} refuses {'this token' if token else 'a client without a token'}: give the "
            "cluster's by --token-file, RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"no job server answers at {address} ({error}): open the way to it by `ray dashboard cluster.yaml`, start "
            "a cluster by `ray start --head`, or give --address"
        ) from error
    if there != ray.__version__:
        raise ConfigError(f"the cluster runs Ray {there}, this machine {ray.__version__}: install the same version")
    return client, address


def _token() -> str | None:
    """The token that Ray itself would send: the environment's, else that of its file."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return read_token(path) if path.is_file() else None


def read_token(path: Path) -> str:
    """The token in a file; ConfigError where there is none."""
    try:
        token = path.expanduser().read_text().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read ({error.strerror}): name the cluster's") from error
    if not token:
        raise ConfigError(f"the token file {path} is empty: make one by `ray get-auth-token --generate`")
    return token


def free_name(name: str, known: dict[str, JobStatus]) -> str:
    """`name`, or with the first number that no job has had; ConfigError while a job of that name runs."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "job"
    same = re.compile(re.escape(base) + r"(-\d+)?")
    running = [job for job, status in known.items() if same.fullmatch(job) and not status.is_terminal()]
    if running:
        raise ConfigError(
            f"the job {running[0]} is still {known[running[0]].value.lower()}: wait for it, end it by "
            f"`ray job stop {running[0]}`, or give this one another --name"
        )
    if base not in known:
        return base
    return next(f"{base}-{n}" for n in range(2, len(known) + 3) if f"{base}-{n}" not in known)


def check_package(working_dir: str) -> int:
    """The bytes that a submission of this directory carries; ConfigError where too many, naming the largest files."""
    directory = Path(working_dir)
    if not directory.is_dir():
        raise ConfigError(f"working_dir={working_dir} is not a directory: name that of the code")
    with tempfile.TemporaryDirectory(prefix="xmodal-package-") as scratch:
        target = Path(scratch) / "package.zip"
        create_package(str(directory.resolve()), target, include_gitignore=True, excludes=list(EXCLUDES))
        size = target.stat().st_size
        with zipfile.ZipFile(target) as package:
            files = sorted(package.infolist(), key=lambda file: -file.compress_size)[:3]
    if size > PACKAGE_MIB * 2**20:
        largest = ", ".join(f"{file.filename} ({file.compress_size / 2**20:.0f} MiB)" for file in files)
        raise ConfigError(
            f"the package of {directory.resolve()} has {size / 2**20:.0f} MiB, more than {PACKAGE_MIB}: the largest "
            f"are {largest}; keep data in storage, or name it in .gitignore or .rayignore"
        )
    return size


def follow(client: JobSubmissionClient, name: str, say: Say, show: Say) -> int:
    """Show the log until the job ends; its exit status, never 0 for one that did not succeed."""
    shown = 0
    while True:
        try:
            shown = asyncio.run(_show(client, name, shown, show))
        except (OSError, RuntimeError) as error:  # aiohttp's errors of a connection are OSErrors
            say(f"lost sight of the log ({error}); looking again")
            time.sleep(2)
        info = client.get_job_info(name)
        if info.status.is_terminal():
            break
        time.sleep(0.2)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        say(f"{name} was stopped")
        return STOPPED
    code = info.driver_exit_code
    if code is None:  # it never got to run
        say(f"{name} failed: {info.message}")
        return 1
    say(f"{name} failed with exit status {code}")
    return code if code > 0 else 128 - code or 1


async def _show(client: JobSubmissionClient, name: str, shown: int, show: Say) -> int:
    """The log from its character `shown` on, until the server ends it; how much of it has been shown."""
    seen = 0
    async for lines in client.tail_job_logs(name):
        seen += len(lines)
        if seen > shown:
            show(lines[-(seen - shown) :])
            shown = seen
    return shown
