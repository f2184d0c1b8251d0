"""The error of a failed run is the sentence that a person can act on, whatever Ray has wrapped around it."""

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from pipelines.loop.launch import _root_cause
from xmodal.errors import CheckpointError, StorageError

STORE = "s3://b/k: these credentials may not do this (AccessDenied); use others"
TRACE = (
    "Traceback (most recent call last):\n  File x, line 1\nxmodal.errors.StorageError: " + STORE + "\nRay says more."
)


def task_error() -> Exception:
    """Make an error as Ray Data raises it, with its advice added to the message of the cause."""
    return RayTaskError("read", TRACE, StorageError(f"{STORE}\nTo change retry attempts, ...")).as_instanceof_cause()


def checkpoint_error() -> Exception:
    try:
        raise CheckpointError("the last checkpoint could not be written: no space") from StorageError("no space")
    except CheckpointError as error:
        return error


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({0: task_error()}, STORE),
        ({1: task_error(), 0: RuntimeError("Connection closed by peer [127.0.0.1]:1234")}, STORE),
        ({0: checkpoint_error()}, "the last checkpoint could not be written: no space"),
        ({0: RuntimeError("first line\nlast line\n"), 1: RuntimeError("other")}, "other"),
        ({}, "worker group failed"),
    ],
)
def test_the_error_of_a_failed_run_is_its_root_cause(failures: dict[int, Exception], expected: str) -> None:
    assert _root_cause(WorkerGroupError("some text\nworker group failed", failures)) == expected


def test_the_root_cause_behind_a_failure_of_the_controller_is_found() -> None:
    assert _root_cause(ControllerError(task_error())) == STORE
