"""Saving in the background: one writer at a time, failures surface, a kill at any moment leaves a verified latest."""

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xmodal import checkpoint, storage
from xmodal.checkpoint import CheckpointWriter, Replaced, Retention
from xmodal.errors import CheckpointError, StorageError


def fill(directory: Path) -> None:
    for number in range(3):
        (directory / f"part-{number}.safetensors").write_bytes(random.Random(number).randbytes(100_000))


def writer(base: Path, *, attempt: int = 1, messages: list[str] | None = None, **options: object) -> CheckpointWriter:
    scratch = base / "scratch"
    scratch.mkdir(exist_ok=True)
    notify = (messages if messages is not None else []).append
    return CheckpointWriter(
        str(base / "checkpoints"), run_id="run", attempt=attempt, notify=notify, scratch=scratch, **options
    )


def steps(base: Path) -> list[int]:
    return [found.step for found in checkpoint.scan(str(base / "checkpoints"))]


def scratch_is_empty(base: Path) -> bool:
    return list((base / "scratch").iterdir()) == []


def test_saves_are_committed_verified_and_pruned(tmp_path: Path) -> None:
    with writer(tmp_path, retention=Retention(keep=2, keep_every=200)) as saves:
        for step in range(100, 600, 100):
            saves.save(step, fill, {"loss": 1.5})
    assert steps(tmp_path) == [500, 400, 200]
    assert saves.last.marker.metadata == {"loss": 1.5}
    assert scratch_is_empty(tmp_path)


def test_a_step_is_written_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def counted(directory: Path) -> None:
        calls.append(directory)
        fill(directory)

    with writer(tmp_path) as saves:
        saves.save(100, counted)
        saves.save(100, counted)  # the last step, and the end of the run
    assert len(calls) == 1


class Gate:
    """Uploads wait until it is opened; counts how many are inside at once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = 0
        self.most = 0
        self._upload = storage.upload

    def __call__(self, local_path: str, uri: str, **options: object) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.open.wait(10)
        self._upload(local_path, uri, **options)
        self.inside -= 1


def test_save_returns_before_the_upload_and_the_next_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(storage, "upload", gate)
    with writer(tmp_path) as saves:
        saves.save(100, fill)
        assert steps(tmp_path) == []
        threading.Timer(0.1, gate.open.set).start()
        saves.save(200, fill)
        assert saves.last.step == 100
    assert gate.most == 1
    assert steps(tmp_path) == [200, 100]


def test_what_changes_after_save_is_not_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(storage, "upload", gate)
    weights = bytearray(b"step 100")
    with writer(tmp_path) as saves:
        saves.save(100, lambda directory: (directory / "weights").write_bytes(weights))
        weights[:] = b"step 101"
        gate.open.set()
    assert (Path(saves.last.uri) / "weights").read_bytes() == b"step 100"


def failing(error: Exception, *, times: int) -> Callable[..., None]:
    """`storage.upload` that fails `times` times in the middle of a checkpoint, then works again."""
    upload, left = storage.upload, [times]

    def upload_or_fail(local_path: str, uri: str, **options: object) -> None:
        if left[0] and uri.endswith("part-1.safetensors"):
            left[0] -= 1
            raise error
        upload(local_path, uri, **options)

    return upload_or_fail


DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [DISK_FULL, StorageError("s3://bucket: 507 from the server")])
def test_a_full_disk_keeps_the_previous_and_the_run_goes_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    with writer(tmp_path, messages=messages, tolerate=2) as saves:
        saves.save(100, fill)
        saves.wait()
        monkeypatch.setattr(storage, "upload", failing(error, times=2))
        for step in (200, 300, 400):
            saves.save(step, fill)
            saves.wait()
            assert checkpoint.latest(str(tmp_path / "checkpoints"), tmp_path / "into", run_id="run") is not None
    assert steps(tmp_path) == [400, 100]
    assert [message.split(" could")[0] for message in messages] == [
        "the checkpoint of step 200",
        "the checkpoint of step 300",
    ]
    assert "step-000000100.attempt-1 stays the newest" in messages[0]
    assert not (tmp_path / "checkpoints" / "step-000000200.attempt-1").exists()  # frees what it took
    assert scratch_is_empty(tmp_path)


def test_more_failures_in_a_row_than_tolerated_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = writer(tmp_path, tolerate=1)
    saves.save(100, fill)
    saves.wait()
    monkeypatch.setattr(storage, "upload", failing(DISK_FULL, times=10))
    saves.save(200, fill)
    saves.save(300, fill)
    with pytest.raises(CheckpointError, match=r"2 checkpoints in a row.*No space left.*step-000000100"):
        saves.save(400, fill)
    with pytest.raises(CheckpointError):
        saves.close()
    assert steps(tmp_path) == [100]
    assert scratch_is_empty(tmp_path)


def test_a_last_save_that_failed_is_an_error_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "upload", failing(DISK_FULL, times=1))
    saves = writer(tmp_path)
    saves.save(100, fill)
    with pytest.raises(CheckpointError, match="the last checkpoint could not be written"):
        saves.close()


def test_a_full_local_disk_while_filling_is_tolerated_too(tmp_path: Path) -> None:
    def no_space(directory: Path) -> None:
        (directory / "half").write_bytes(b"half")
        raise RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })')

    messages: list[str] = []
    with writer(tmp_path, messages=messages) as saves:
        saves.save(100, no_space)
        saves.save(200, fill)
    assert steps(tmp_path) == [200]
    assert "step 100 could not be written" in messages[0]
    assert scratch_is_empty(tmp_path)


def test_a_mistake_in_fill_is_raised_at_once(tmp_path: Path) -> None:
    def mistaken(directory: Path) -> None:
        raise KeyError("optimizer")

    with writer(tmp_path) as saves, pytest.raises(KeyError):
        saves.save(100, mistaken)
    assert scratch_is_empty(tmp_path)


def test_a_mistake_in_the_background_is_raised_at_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "upload", failing(TypeError("a bug"), times=1))
    saves = writer(tmp_path)
    saves.save(100, fill)
    with pytest.raises(TypeError, match="a bug"):
        saves.save(200, fill)
    saves.close()


def test_the_runs_own_error_is_not_hidden_by_a_failing_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "upload", failing(DISK_FULL, times=9))
    messages: list[str] = []
    with pytest.raises(ZeroDivisionError), writer(tmp_path, messages=messages) as saves:
        saves.save(100, fill)
        raise ZeroDivisionError
    assert messages[-1].startswith("while ending: the last checkpoint")


def test_a_damaged_upload_is_noticed_before_anything_older_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store accepted the bytes and kept others."""
    upload = storage.upload

    def rotten(local_path: str, uri: str, **options: object) -> None:
        upload(local_path, uri, **options)
        if "step-000000300" in uri and uri.endswith("part-1.safetensors"):
            Path(uri).write_bytes(bytes(100_000))

    monkeypatch.setattr(storage, "upload", rotten)
    messages: list[str] = []
    with writer(tmp_path, messages=messages) as saves:
        for step in (100, 200, 300, 400):
            saves.save(step, fill)
    assert "part-1.safetensors does not match" in messages[0]
    assert steps(tmp_path) == [400, 300, 200]  # 300 does not count as kept


def test_a_replaced_attempt_writes_nothing(tmp_path: Path) -> None:
    """A stopped process that wakes up after another attempt took over."""
    newest = [1]
    saves = writer(tmp_path, newest_attempt=lambda: newest[0])
    saves.save(100, fill)
    saves.wait()
    newest[0] = 2
    saves.save(200, fill)
    with pytest.raises(Replaced, match="attempt 2 of this run has taken over from attempt 1"):
        saves.close()
    assert steps(tmp_path) == [100]
    assert scratch_is_empty(tmp_path)


def test_an_attempt_replaced_during_its_upload_sets_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, upload = [1], storage.upload

    def replaced_meanwhile(local_path: str, uri: str, **options: object) -> None:
        upload(local_path, uri, **options)
        newest[0] = 2

    monkeypatch.setattr(storage, "upload", replaced_meanwhile)
    saves = writer(tmp_path, newest_attempt=lambda: newest[0])
    saves.save(100, fill)
    with pytest.raises(Replaced):
        saves.wait()
    assert steps(tmp_path) == []


def test_a_failed_deletion_costs_space_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(uri: str, **options: object) -> None:
        raise StorageError(f"{uri}: deletion is forbidden")

    messages: list[str] = []
    with writer(tmp_path, messages=messages) as saves:
        saves.save(100, fill)
        saves.wait()
        monkeypatch.setattr(storage, "delete", forbidden)
        for step in (200, 300):
            saves.save(step, fill)
    assert steps(tmp_path) == [300, 200, 100]
    assert "could not be removed" in messages[0]


def test_leftovers_of_a_killed_attempt_are_removed_by_the_next(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    for name in ("xmodal-run-attempt-1-abc", "xmodal-run-attempt-3-abc", "xmodal-other-attempt-1-abc"):
        (scratch / name).mkdir(parents=True)
    writer(tmp_path, attempt=2).close()
    assert sorted(path.name for path in scratch.iterdir()) == ["xmodal-other-attempt-1-abc", "xmodal-run-attempt-3-abc"]


def save_until_killed(base: Path, attempt: int, first: int) -> None:
    with writer(base, attempt=attempt) as saves:
        for step in range(first, first + 1000):
            saves.save(step, fill)


def test_killed_at_any_moment_a_verified_latest_remains(tmp_path: Path) -> None:
    """15 processes are killed with SIGKILL after a random time of saving without pause."""
    draw = random.Random(7)
    with writer(tmp_path) as saves:
        saves.save(1, fill)
    step = 1
    for attempt in range(2, 17):
        child = os.fork()
        if child == 0:
            try:
                save_until_killed(tmp_path, attempt, step + 1)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        restored = checkpoint.latest(str(tmp_path / "checkpoints"), tmp_path / "into", run_id="run")
        assert restored is not None
        assert restored.found.step >= step
        assert not any("SHA-256" in reason for reason in restored.skipped)
        step = restored.found.step
    assert step > 5  # the processes did save
    with writer(tmp_path, attempt=99) as saves:
        saves.save(10_000, fill)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # nothing of the killed ones is left
    assert scratch_is_empty(tmp_path)
