"""Ray workers that are forked from one process that has imported torch, instead of importing it each for itself.

A Ray worker that trains costs some ten CPU seconds of imports, and the smallest run has a dozen workers. With `forked`
one process, the *nursery*, imports torch, transformers and xmodal once and forks the workers of this process's Ray. Ray
itself each worker imports anew (its C++ side draws random names from a state that a fork would copy); what a worker
does, how it dies and what it leaves is its own. Only Rays that this process starts have a nursery: a test that starts a
command with a Ray of its own gets ordinary workers.

    python tests/nursery.py DEFAULT_WORKER ...    what the raylet starts: it asks, and lives as long as its worker does
    python tests/nursery.py --run JOB ...         python -m JOB ..., with the nursery of the process that starts this
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

ADDRESS = "XMODAL_TEST_NURSERY"
SERVE, RUN = "--serve", "--run"
KIND = socket.AF_UNIX, socket.SOCK_SEQPACKET
LONGEST_REQUEST = 1 << 17
IMPORTED = ("pandas", "pyarrow.dataset", "torch.distributed", "transformers.models.clip.modeling_clip", "tensorboardX",
            "xmodal.encoders", "xmodal.export", "xmodal.training.balance", "xmodal.training.state", "xmodal.storage",
            "xmodal.data.synthetic", "xmodal.data.audio", "xmodal.data.video", "xmodal.report.page")  # fmt: skip


@contextlib.contextmanager
def forked(folder: str) -> Iterator[None]:
    """Until the end of the block, a Ray that this process starts has its workers forked; `folder` is for a socket."""
    from ray._private import ray_constants

    address = os.path.join(folder, "nursery")
    usual, ray_constants.SETUP_WORKER_FILENAME = ray_constants.SETUP_WORKER_FILENAME, __file__
    os.environ[ADDRESS] = address
    server = subprocess.Popen([sys.executable, __file__, SERVE, address])
    try:
        while not os.path.exists(address):
            assert server.poll() is None, "the nursery did not start"
            time.sleep(0.02)
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = usual
        del os.environ[ADDRESS]
        server.terminate()
        server.wait()


def command(job: str, *arguments: str) -> list[str]:
    """`python -m JOB ARGUMENTS`, whose own Ray has its workers forked too; to be started inside `forked`."""
    return [sys.executable, __file__, RUN, job, *arguments]


def run(arguments: list[str]) -> None:
    """The job named first, as a person starts it."""
    from ray._private import ray_constants

    ray_constants.SETUP_WORKER_FILENAME = __file__
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def ask(arguments: list[str]) -> None:
    """Have a worker forked, with the environment, directory and open files of this process, and end when it ends."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}", type=json.loads)
    parser.add_argument("--language")
    known, worker = parser.parse_known_args(arguments)
    environ = dict(os.environ) | (known.serialized_runtime_env_context.get("env_vars") or {})
    request = {"arguments": worker, "environ": environ, "directory": os.getcwd()}
    with socket.socket(*KIND) as nursery:
        nursery.connect(os.environ[ADDRESS])
        socket.send_fds(nursery, [json.dumps(request).encode()], [0, 1, 2])
        nursery.recv(1)


def serve(address: str) -> None:
    """Fork a worker for each request, and tell who asked when it has ended; ends with the process that started it."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is shared stays shared
    assert "ray" not in sys.modules
    parent = os.getppid()
    asking: dict[int, socket.socket] = {}
    with socket.socket(*KIND) as listening:
        listening.bind(f"{address}.new")
        listening.listen(64)
        listening.settimeout(0.1)
        os.rename(f"{address}.new", address)
        while os.getppid() == parent:
            with contextlib.suppress(ChildProcessError):
                while ended := os.waitpid(-1, os.WNOHANG)[0]:
                    asking.pop(ended).close()
            try:
                asked, _ = listening.accept()
            except TimeoutError:
                continue
            request, files, *_ = socket.recv_fds(asked, LONGEST_REQUEST, 3)
            child = os.fork()
            if not child:
                for other in (listening, asked, *asking.values()):
                    other.close()
                _become(json.loads(request), files)
            asking[child] = asked
            for file in files:
                os.close(file)


def _become(request: dict, files: list[int]) -> None:
    """Run the worker's own file in this process, with the arguments, environment and files that it was to have."""
    os.setpgid(0, 0)  # the raylet ends the process group of a worker
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["directory"])
    sys.argv = request["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    code: object = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    if sys.argv[1] == RUN:
        run(sys.argv[2:])
    elif sys.argv[1] == SERVE:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        serve(sys.argv[2])
    else:
        ask(sys.argv[1:])
