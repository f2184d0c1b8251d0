"""Runs a function on W gloo processes on this machine and returns every rank's result.

    results = run(function, 4, argument, timeout_s=60)      # [function(argument) on rank 0, ..., on rank 3]

`function` must be importable by another process (module level); inside it the default process group is initialised. The
processes are forked from a server that has torch loaded, so that a call costs a fraction of a second.
"""

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(  # otherwise each rank imports these; DDP imports torch._dynamo
    ["torch", "torch.distributed", "torch._dynamo", "xmodal.encoders.small_resnet"]
)


class RankFailed(AssertionError):
    """A rank raised, died or did not answer in time; the message holds the tracebacks of the ranks."""


def run(function: Callable[..., Any], world: int, *arguments: Any, timeout_s: float = 120.0) -> list[Any]:
    """Return the results in the order of the ranks; they and the arguments are pickled.

    Raises RankFailed if a rank raises or dies, or if not all have answered after `timeout_s`; no process outlives the
    call.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [_start(function, rank, world, folder, arguments, timeout_s) for rank in range(world)]
        try:
            answers = _collect([connection for _, connection in processes], timeout_s)
        finally:
            for process, _ in processes:
                process.kill()
                process.join()
    return [answers[rank] for rank in range(world)]


def _start(
    function: Callable[..., Any],
    rank: int,
    world: int,
    folder: str,
    arguments: tuple[Any, ...],
    timeout_s: float,
) -> tuple[BaseProcess, Connection]:
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(
        target=_work, args=(sender, function, rank, world, folder, arguments, timeout_s), daemon=True
    )
    process.start()
    sender.close()  # a dead rank is then seen as the end of its pipe
    return process, receiver


def _collect(connections: list[Connection], timeout_s: float) -> dict[int, Any]:
    """Wait for every rank; after the first failure give the others a moment to fail for their own reasons."""
    deadline = time.monotonic() + timeout_s
    answers: dict[int, Any] = {}
    failures: dict[int, str] = {}
    open_ = dict(zip(connections, range(len(connections)), strict=True))
    while open_:
        ready = wait(list(open_), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            rank = open_.pop(connection)
            ok, answer = _receive(connection)
            (answers if ok else failures)[rank] = answer
        if failures:
            deadline = min(deadline, time.monotonic() + 1.0)
    for rank in open_.values():
        failures.setdefault(rank, f"no answer (after a failure elsewhere, or in {timeout_s:g} s)")
    if failures:
        raise RankFailed("\n".join(f"rank {rank}: {failures[rank]}" for rank in sorted(failures)))
    return answers


def _receive(connection: Connection) -> tuple[bool, Any]:
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        return False, "died without an answer"


def _work(
    connection: Connection,
    function: Callable[..., Any],
    rank: int,
    world: int,
    folder: str,
    arguments: tuple[Any, ...],
    timeout_s: float,
) -> None:
    """Run on one rank: join the group, call the function, and answer with bytes.

    Shared-memory tensors would not survive this process.
    """
    try:
        answer = pickle.dumps((True, _in_group(function, rank, world, folder, arguments, timeout_s)))
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    connection.send_bytes(answer)
    connection.close()
    sys.stdout.flush()
    os._exit(0)  # gloo's destructors may wait for ranks that have failed


def _in_group(
    function: Callable[..., Any],
    rank: int,
    world: int,
    folder: str,
    arguments: tuple[Any, ...],
    timeout_s: float,
) -> Any:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s))
    result = function(*arguments)
    dist.barrier()  # no rank exits while another still reads its buffers
    return result
