"""Run a command on a cluster as a Ray job, show its log, and return its exit status."""

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
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines.config.submission import SubmissionConfig
from pipelines.runtime import ray_compat
from xmodal.callbacks import Notify
from xmodal.errors import ConfigError, XmodalError
from xmodal.run.provenance import COMMIT_VARIABLE, commit

DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # of `ray dashboard cluster.yaml`, and of a Ray on this machine
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray prefers it to RAY_ADDRESS and to the address given to a client
MAX_PACKAGE_MIB = 100
EXCLUDES = (
    ".git", ".venv*", "venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "*.tar", "*.tar.gz", "*.tgz",
    "*.parquet", "*.safetensors", "*.zip", "/runs", "/data", "/build", "/dist",
)  # fmt: skip
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOPPED_STATUS = 130  # exit status for a job that was stopped, as of Ctrl-C
START_TIMEOUT_S = 120.0  # a cluster takes jobs some seconds after `ray start`


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submitted job; `exit_code` is that of its command where it was waited for."""

    id: str
    address: str
    exit_code: int = 0


class SubmissionRefused(XmodalError):
    """The job server did not accept a submission."""


def run(config: SubmissionConfig, *, notify: Notify, show_log: Notify) -> Submission:
    """Submit the command and, unless told not to wait, show its log until it ends.

    `notify` receives what concerns the submission itself, `show_log` the job's log. ConfigError: no job server, a wrong
    token, another version of Ray, a package that is too large, or a running job of this name.
    """
    for logger in ray_compat.QUIET_JOB_LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    package = check_package(config.working_dir)
    client, address = connect(config.address, config.token, notify)
    name = free_name(config.name, {job.submission_id: job.status for job in client.list_jobs() if job.submission_id})
    environment = {
        "working_dir": os.path.abspath(config.working_dir),
        "excludes": list(EXCLUDES),
        "env_vars": {COMMIT_VARIABLE: commit(Path(config.working_dir)) or ""},
    }
    send = functools.partial(
        client.submit_job,
        entrypoint=shlex.join(config.command),
        submission_id=name,
        runtime_env=environment,
        metadata={"name": config.name},
    )
    try:
        _when_ready(send, notify)
    except RuntimeError as error:
        busy = "; does another Ray run on that machine? give one of them --dashboard-agent-listen-port"
        hint = busy if ray_compat.is_no_job_agent(error) else ""
        raise SubmissionRefused(f"{address} did not take the job {name!r}: {str(error).rstrip('. ')}{hint}") from error
    notify(f"submitted {name} to {address} ({package / 2**20:.1f} MiB of code)")
    if not config.wait:
        notify(f"its log: ray job logs --follow {name} --address {address}")
        return Submission(id=name, address=address)
    try:
        return Submission(id=name, address=address, exit_code=follow(client, name, notify, show_log))
    except KeyboardInterrupt:
        notify(f"{name} goes on; its log: ray job logs --follow {name} --address {address}")
        notify(f"to end it: ray job stop {name} --address {address}")
        raise


def _when_ready(send: Callable[[], str], notify: Notify) -> None:
    """Call `send`, again while the cluster has only just started and has no agent to run a job."""
    deadline, notified = time.monotonic() + START_TIMEOUT_S, False
    while True:
        try:
            send()
            return
        except RuntimeError as error:
            if not ray_compat.is_no_job_agent(error) or time.monotonic() > deadline:
                raise
        if not notified:
            notify("the cluster is still starting: waiting until it takes jobs")
        notified = True
        time.sleep(1)


def preview(config: SubmissionConfig) -> dict[str, Any]:
    """Return what would be sent where, as plain JSON without the token; the job server is not asked."""
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
    """Return the URL of the job server; ConfigError for an address of Ray itself."""
    ray_address = os.environ.get("RAY_ADDRESS", "")
    fallback = ray_address if ray_address.startswith("http") else DEFAULT_ADDRESS
    address = given or os.environ.get(ADDRESS_VARIABLE) or fallback
    address = (address if "://" in address else f"http://{address}").rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"{address} is not a job server's address: write http://HOST:8265")
    return address


def connect(address: str | None, token: str | None, notify: Notify) -> tuple[JobSubmissionClient, str]:
    """Connect to the job server; return a client and the server's address. ConfigError where it does not answer."""
    address = _address(address)
    url = urlsplit(address)
    token = token or _token()
    if token and url.scheme == "http" and url.hostname not in LOOPBACK:
        notify(f"the token travels to {url.hostname} unencrypted: use `ray dashboard cluster.yaml`, a tunnel or https")
    os.environ[ADDRESS_VARIABLE] = address
    try:
        socket.create_connection((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), 5).close()
        client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
        version = ray_compat.server_ray_version(client)
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
    if version != ray.__version__:
        raise ConfigError(f"the cluster runs Ray {version}, this machine {ray.__version__}: install the same version")
    return client, address


def _token() -> str | None:
    """Return the token that Ray itself would send: that of the environment, else of its token file."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return read_token(path) if path.is_file() else None


def read_token(path: Path) -> str:
    """Read the token in a file; ConfigError where there is none."""
    try:
        token = path.expanduser().read_text().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read ({error.strerror}): name the cluster's") from error
    if not token:
        raise ConfigError(f"the token file {path} is empty: make one by `ray get-auth-token --generate`")
    return token


def free_name(name: str, jobs: dict[str, JobStatus]) -> str:
    """Return `name`, or `name` with the first free number; ConfigError while a job of that name runs.

    `jobs` are all jobs of the server by name.
    """
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "job"
    same = re.compile(re.escape(base) + r"(-\d+)?")
    running = [job for job, status in jobs.items() if same.fullmatch(job) and not status.is_terminal()]
    if running:
        raise ConfigError(
            f"the job {running[0]} is still {jobs[running[0]].value.lower()}: wait for it, end it by "
            f"`ray job stop {running[0]}`, or give this one another --name"
        )
    if base not in jobs:
        return base
    return next(f"{base}-{n}" for n in range(2, len(jobs) + 3) if f"{base}-{n}" not in jobs)


def check_package(working_dir: str) -> int:
    """Return the bytes that a submission of this directory carries; ConfigError names the largest files of too many."""
    directory = Path(working_dir)
    if not directory.is_dir():
        raise ConfigError(f"working_dir={working_dir} is not a directory: name that of the code")
    with tempfile.TemporaryDirectory(prefix="xmodal-package-") as scratch:
        target = Path(scratch) / "package.zip"
        ray_compat.write_working_dir_package(directory.resolve(), target, EXCLUDES)
        size = target.stat().st_size
        with zipfile.ZipFile(target) as package:
            files = sorted(package.infolist(), key=lambda file: -file.compress_size)[:3]
    if size > MAX_PACKAGE_MIB * 2**20:
        largest = ", ".join(f"{file.filename} ({file.compress_size / 2**20:.0f} MiB)" for file in files)
        raise ConfigError(
            f"the package of {directory.resolve()} has {size / 2**20:.0f} MiB, more than {MAX_PACKAGE_MIB}: "
            f"the largest are {largest}; keep data in storage, or name it in .gitignore or .rayignore"
        )
    return size


def follow(client: JobSubmissionClient, name: str, notify: Notify, show_log: Notify) -> int:
    """Show the log until the job ends; return its exit status, which is not 0 for a job that did not succeed."""
    shown = 0
    while True:
        try:
            shown = asyncio.run(_show(client, name, shown, show_log))
        except (OSError, RuntimeError) as error:  # aiohttp's errors of a connection are OSErrors
            notify(f"the connection to the log was lost ({error}); connecting again")
            time.sleep(2)
        info = client.get_job_info(name)
        if info.status.is_terminal():
            break
        time.sleep(0.2)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        notify(f"{name} was stopped")
        return STOPPED_STATUS
    code = info.driver_exit_code
    if code is None:  # it never got to run
        notify(f"{name} failed: {info.message}")
        return 1
    notify(f"{name} failed with exit status {code}")
    return code if code > 0 else 128 - code or 1


async def _show(client: JobSubmissionClient, name: str, shown: int, show_log: Notify) -> int:
    """Show the log from its character `shown` on, until the server ends it; return how much has been shown."""
    seen = 0
    async for lines in client.tail_job_logs(name):
        seen += len(lines)
        if seen > shown:
            show_log(lines[-(seen - shown) :])
            shown = seen
    return shown
