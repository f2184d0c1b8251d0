"""Fork Ray workers from a process that has imported Ray and torch, instead of importing both in every worker.

A Ray worker that trains costs some ten CPU seconds of imports, and the smallest run has a dozen workers. With
`fork_ray_workers` one process, the *fork server*, imports torch, transformers and xmodal once; for each Ray it forks a
*branch*, which imports Ray and the pipelines in that Ray's environment (Ray reads it as it is imported) and forks the
workers. What a worker does and how it dies concerns it alone. Only Rays that this process starts have a fork server: a
test that starts a command with a Ray of its own says so (`command`), or gets ordinary workers.

    python fork_server.py DEFAULT_WORKER ...    what the raylet starts: it requests a worker and lives as long as that
    python fork_server.py --run JOB ...         python -m JOB ..., with the fork server of the process that starts this
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

ADDRESS = "XMODAL_TEST_FORK_SERVER"
RAYLET = "RAY_RAYLET_PID"
READ_BY_RAY = (RAYLET, "RAY_JOB_ID")  # when it is imported
SERVE, RUN = "--serve", "--run"
KIND = socket.AF_UNIX, socket.SOCK_SEQPACKET
LONGEST_REQUEST = 1 << 17
IMPORTED_FROM_OTHERS = ("pandas", "pyarrow.dataset", "torch.distributed", "transformers.models.clip.modeling_clip",
                        "tensorboardX")  # fmt: skip
IMPORTED = (*IMPORTED_FROM_OTHERS, "xmodal.encoders", "xmodal.export", "xmodal.training.balanced_learning",
            "xmodal.training.engine.state", "xmodal.storage", "xmodal.data.synthetic", "xmodal.data.media.audio",
            "xmodal.data.media.video", "xmodal.report.page")  # fmt: skip
IMPORTED_WITH_RAY = ("ray._private.workers.default_worker", "ray.data._internal.execution.streaming_executor",
                     "ray.train.torch", "ray.train.v2._internal.execution.controller", "pipelines.stages.pretrain",
                     "pipelines.stages.classify", "pipelines.inference.embed", "pipelines.inference.evaluate",
                     "pipelines.corpus.prepare")  # fmt: skip


@contextlib.contextmanager
def fork_ray_workers(folder: str) -> Iterator[None]:
    """Until the end of the block, a Ray that this process starts has its workers forked; `folder` is for a socket."""
    address = os.path.join(folder, "fork-server")
    os.environ[ADDRESS] = address
    server = subprocess.Popen([sys.executable, __file__, SERVE, address])
    try:
        while not os.path.exists(address):
            assert server.poll() is None, "the fork server did not start"
            time.sleep(0.02)
        with patch_ray_workers():
            yield
    finally:
        del os.environ[ADDRESS]
        server.terminate()
        server.wait()


def command(job: str, *arguments: str) -> list[str]:
    """`python -m JOB ARGUMENTS`, whose own Ray has its workers forked, too; to be started inside `fork_ray_workers`."""
    return [sys.executable, __file__, RUN, job, *arguments]


def run_job(arguments: list[str]) -> None:
    """Run the job named first, as a person starts it."""
    with patch_ray_workers():
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def patch_ray_workers() -> Iterator[None]:
    """Make a Ray that is started in this block request its workers from the fork server, without their output."""
    from ray._private import node, ray_constants

    usual = ray_constants.SETUP_WORKER_FILENAME, node.Node.start_log_monitor
    ray_constants.SETUP_WORKER_FILENAME, node.Node.start_log_monitor = __file__, lambda self: None
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME, node.Node.start_log_monitor = usual


def request_worker(arguments: list[str]) -> None:
    """Request a worker with the environment, directory and open files of this process, and end when it ends."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}", type=json.loads)
    parser.add_argument("--language")
    known, worker = parser.parse_known_args(arguments)
    context = known.serialized_runtime_env_context
    directory = os.getcwd()
    if prefix := context.get("command_prefix"):
        change, directory, _ = shlex.split(" ".join(prefix))  # what Ray writes for a working directory
        assert change == "cd", prefix
    environ = dict(os.environ) | (context.get("env_vars") or {})
    request = {"arguments": worker, "environ": environ, "directory": directory}
    with socket.socket(*KIND) as server:
        server.connect(os.environ[ADDRESS])
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        server.recv(1)


def serve(address: str) -> None:
    """Run the fork server: pass each request on to the branch of its Ray; ends with the process that started it."""
    _import(IMPORTED)
    assert "ray" not in sys.modules
    parent = os.pidfd_open(os.getppid())
    branches: dict[tuple[str | None, ...], socket.socket] = {}
    with socket.socket(*KIND) as listening:
        listening.bind(f"{address}.new")
        listening.listen(64)
        os.rename(f"{address}.new", address)
        while parent not in select.select([listening, parent], [], [])[0]:
            asking, _ = listening.accept()
            message, files, *_ = socket.recv_fds(asking, LONGEST_REQUEST, 3)
            environ = json.loads(message)["environ"]
            ray = tuple(environ.get(name) for name in READ_BY_RAY)
            if ray not in branches:
                branches[ray] = _start_branch(environ, [listening, asking, *branches.values()])
            socket.send_fds(branches[ray], [message], [*files, asking.fileno()])
            for file in files:
                os.close(file)
            asking.close()


def _start_branch(environ: dict[str, str], others: list[socket.socket]) -> socket.socket:
    """A socket to a new branch; `others` are not for it."""
    mine, theirs = socket.socketpair(*KIND)
    if os.fork():
        theirs.close()
        return mine
    try:
        for other in (mine, *others):
            other.close()
        _serve_branch(environ, theirs)
    finally:
        os._exit(0)


def _serve_branch(environ: dict[str, str], server: socket.socket) -> None:
    """Fork a worker for each request, and answer when it has ended; ends with its Ray, or with the fork server."""
    os.environ.clear()
    os.environ.update(environ)
    with _names_from_the_system():
        _import(IMPORTED_WITH_RAY)
    raylet = os.pidfd_open(int(environ[RAYLET]))
    asking: dict[int, socket.socket] = {}  # by the pidfd of the worker
    while raylet not in (ready := select.select([server, raylet, *asking], [], [])[0]):
        for ended in asking.keys() & set(ready):
            os.waitid(os.P_PIDFD, ended, os.WEXITED)
            asking.pop(ended).close()
            os.close(ended)
        if server not in ready:
            continue
        message, files, *_ = socket.recv_fds(server, LONGEST_REQUEST, 4)
        if not message:
            return
        asked = socket.socket(fileno=files.pop())
        child = os.fork()
        if not child:
            for other in (server, asked, *asking.values()):
                other.close()
            for other in (raylet, *asking):
                os.close(other)
            _run_worker(json.loads(message), files)
        asking[os.pidfd_open(child)] = asked
        for file in files:
            os.close(file)


def _import(modules: Sequence[str]) -> None:
    """Import them without looking for garbage, and keep what is shared shared."""
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.enable()
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _names_from_the_system() -> Iterator[None]:
    """Ray names the actor classes of its own modules by a generator of its C++ side, which every fork would share.

    It is seeded when first used, so that each worker has one of its own as long as nobody has used it here.
    """
    import ray.actor

    usual = ray.actor.ActorClassID
    ray.actor.ActorClassID = SimpleNamespace(from_random=lambda: usual(os.urandom(usual.size())))
    try:
        yield
    finally:
        ray.actor.ActorClassID = usual


def _run_worker(request: dict, files: list[int]) -> None:
    """Run the worker's own file in this process, with the arguments, environment and files that it was to have."""
    os.setpgid(0, 0)  # the raylet ends the process group of a worker
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["directory"])
    sys.argv = request["arguments"]
    sys.path[:1] = [os.path.dirname(sys.argv[0]), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    code: object = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    sys.path[1:1] = [
        str(Path(__file__).parents[2]),
        str(Path(__file__).parents[1]),
    ]  # pipelines and jobs and the tests' support are not installed
    if sys.argv[1] == RUN:
        run_job(sys.argv[2:])
    elif sys.argv[1] == SERVE:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        serve(sys.argv[2])
    else:
        request_worker(sys.argv[1:])
