"""A real S3 server on loopback for tests: OpenStack Swift with s3api, which stores its data in a directory.

    python tests/support/object_store.py install        create the environment that Swift runs in (`make swift`)
    python tests/support/object_store.py serve DIR      run it in the foreground, with the shell exports for clients

Swift has a virtual environment of its own, so that its eventlet is not imported by the application: `.venv-swift`
beside the Makefile, or the path in XMODAL_SWIFT_VENV. One node, one replica, one device, well-known keys: for tests
only. Linux.
"""

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "swift==2.38.3",
    "eventlet==0.41.3",
    "PyECLib==1.8.0",
)  # the other dependencies have stable interfaces
HOST = "127.0.0.1"
BACKENDS = ("account", "container", "object")
FILTERS = ("catch_errors", "listing_formats", "s3api", "tempauth", "copy", "bulk", "slo", "dlo")
START_TIMEOUT_S = 30.0
PAGE_KEYS = 40  # keys in a page of a listing; with the 1000 of AWS a test would need thousands of objects

RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in zip(sys.argv[2::2], sys.argv[3::2]):
    ring = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
    ring.add_dev(dict(region=1, zone=1, weight=1, ip="127.0.0.1", port=int(port), device="d1"))
    ring.rebalance()
    ring.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""


class Unavailable(Exception):
    """The error of a server that cannot be installed or started on this machine; the message says why."""


def environment() -> Path:
    default = Path(__file__).resolve().parents[2] / ".venv-swift"
    return Path(os.environ.get("XMODAL_SWIFT_VENV") or default)


def install(venv: Path) -> None:
    """Create `venv` with Swift; a marker is written last, so that an interrupted installation is repeated."""
    marker = venv / "installed.json"
    if marker.exists() and json.loads(marker.read_text()) == list(PACKAGES):
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([venv / "bin/pip", "install", *quiet, *PACKAGES], check=True)
    marker.write_text(json.dumps(PACKAGES))


@dataclass(frozen=True)
class Faults:
    """The active plan of faults; `fired` has the number of requests that each of its rules was applied to."""

    count_file: Path
    id: str
    rules: int

    @property
    def fired(self) -> list[int]:
        counts: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError):
            record = json.loads(self.count_file.read_text())
            counts = record["counts"] if record["id"] == self.id else {}
        return [counts.get(str(number), 0) for number in range(self.rules)]


class ObjectStore:
    """Four Swift servers that store their data in `root`; the kernel ends them when this process ends."""

    def __init__(self, root: Path, venv: Path) -> None:
        self._root = root.resolve()
        self._venv = venv.absolute()
        self._ports = dict(zip(("proxy", *BACKENDS), _free_ports(1 + len(BACKENDS)), strict=True))
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._plan = self._root / "faults.json"

    @property
    def exports(self) -> dict[str, str]:
        """Return the environment of a client, without the AWS files of the user who runs the tests."""
        return {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self._ports['proxy']}",
            "AWS_ACCESS_KEY_ID": "test:tester",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": f"{self._root}/aws-config",
            "AWS_SHARED_CREDENTIALS_FILE": f"{self._root}/aws-credentials",
        }

    def start(self) -> None:
        """Start all four servers and wait until they answer; Unavailable if they do not."""
        if not (self._venv / "bin/swift-proxy-server").exists():
            raise Unavailable(f"no Swift in {self._venv}: run `make swift`")
        for part in ("etc", "srv/d1", "log"):
            (self._root / part).mkdir(parents=True, exist_ok=True)
        self._check_xattrs()
        self._set_faults([])
        self._configure()
        try:
            for name in self._ports:
                self._spawn(name)
            for name in self._ports:
                self._wait(name)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the servers; Swift commits by fsync and rename, so nothing that was acknowledged is lost."""
        for name in list(self._servers):
            self._kill(name)

    @contextlib.contextmanager
    def faults(self, *rules: Mapping[str, object]) -> Iterator[Faults]:
        """Apply these faults (see object_store_faults.py) to requests until the block ends."""
        plan_id = self._set_faults(list(rules))
        try:
            yield Faults(Path(f"{self._plan}.fired"), plan_id, len(rules))
        finally:
            self._set_faults([])

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections until the block ends."""
        self._kill("proxy")
        try:
            yield
        finally:
            self._spawn("proxy")
            self._wait("proxy")

    def _set_faults(self, rules: list[Mapping[str, object]]) -> str:
        plan = {"id": uuid.uuid4().hex, "rules": rules}
        draft = self._plan.with_suffix(".new")
        draft.write_text(json.dumps(plan))
        draft.replace(self._plan)
        return plan["id"]

    def _check_xattrs(self) -> None:
        try:
            os.setxattr(self._root / "srv/d1", "user.xmodal", b"")
        except OSError as error:
            raise Unavailable(f"{self._root}: Swift needs a file system with user xattrs: {error}") from error

    def _configure(self) -> None:
        etc = self._root / "etc"
        (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = xmodal\n")
        shutil.copy(Path(__file__).with_name("object_store_faults.py"), etc)
        for name in self._ports:
            (etc / f"{name}.conf").write_text(self._conf(name))
        rings = [word for name in BACKENDS for word in (name, str(self._ports[name]))]
        result = subprocess.run([self._venv / "bin/python", "-c", RINGS, etc, *rings], capture_output=True, text=True)
        if result.returncode:
            raise Unavailable(f"Swift cannot make its rings: {result.stderr.strip()}")

    def _conf(self, name: str) -> str:
        default = {
            "bind_ip": HOST,
            "bind_port": self._ports[name],
            "workers": 0,
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "swift_dir": self._root / "etc",
            "devices": self._root / "srv",
            "mount_check": "false",
            "disable_fallocate": "true",
            "log_level": "WARNING",
        }
        filters = ("faults", *FILTERS) if name == "proxy" else ()
        app = {"use": f"egg:swift#{name}"}
        if name == "proxy":  # the default limits cause 503 for a minute after one slow backend
            app |= {"account_autocreate": "true", "node_timeout": "5", "recoverable_node_timeout": "5"}
            app |= {"error_suppression_interval": "1", "error_suppression_limit": "100000"}
        if name == "object":  # an update of the listing that times out is never repeated here
            app |= {"container_update_timeout": "60", "node_timeout": "60", "conn_timeout": "10"}
        sections = {
            "DEFAULT": default,
            "pipeline:main": {"pipeline": " ".join((*filters, f"{name}-server"))},
            f"app:{name}-server": app,
            **{f"filter:{used}": self._filter(used) for used in filters},
        }
        return "".join(f"[{title}]\n{_settings(values)}" for title, values in sections.items())

    def _filter(self, name: str) -> dict[str, object]:
        if name == "faults":
            return {"paste.filter_factory": "object_store_faults:filter_factory", "plan": self._plan}
        settings = {
            "tempauth": {"user_test_tester": "testing .admin"},
            "s3api": {"max_bucket_listing": PAGE_KEYS},
        }
        return {"use": f"egg:swift#{name}", **settings.get(name, {})}

    def _spawn(self, name: str) -> None:
        etc = self._root / "etc"
        command = [self._venv / f"bin/swift-{name}-server", etc / f"{name}.conf", "--verbose"]
        with (self._root / f"log/{name}.log").open("ab") as log:
            self._servers[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                env={**os.environ, "PYTHONPATH": str(etc), "PYTHONWARNINGS": "ignore"},
            )

    def _wait(self, name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(self._ports[name]):
            if self._servers[name].poll() is not None or time.monotonic() > deadline:
                log = (self._root / f"log/{name}.log").read_text()[-1500:]
                raise Unavailable(f"Swift's {name} server does not answer: {log.strip()}")
            time.sleep(0.05)

    def _kill(self, name: str) -> None:
        server = self._servers.pop(name)
        server.kill()
        server.wait()


def _settings(values: Mapping[str, object]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in values.items())


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in sockets]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status > 0
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install")
    commands.add_parser("serve").add_argument("directory", metavar="DIR", type=Path)
    args = parser.parse_args()
    if args.command == "install":
        install(environment())
        return
    store = ObjectStore(args.directory, environment())
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    store.start()
    print("export", *(f"{name}={value}" for name, value in store.exports.items()), flush=True)
    signal.sigwait((signal.SIGINT, signal.SIGTERM))
    store.stop()


if __name__ == "__main__":
    main()
