"""The checkpoint writer: one upload at a time, failures are raised, a kill at any moment leaves a valid checkpoint."""

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
from xmodal.checkpoint import CheckpointWriter, Retention, SupersededAttempt
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
    return [ref.step for ref in checkpoint.scan(str(base / "checkpoints"))]


def scratch_is_empty(base: Path) -> bool:
    return list((base / "scratch").iterdir()) == []


def test_saves_are_committed_verified_and_pruned(tmp_path: Path) -> None:
    with writer(tmp_path, retention=Retention(keep=2, keep_every=200)) as saves:
        for step in range(100, 600, 100):
            saves.save(step, fill, {"loss": 1.5})
    assert steps(tmp_path) == [500, 400, 200]
    assert saves.last.marker.metadata == {"loss": 1.5}
    assert scratch_is_empty(tmp_path)


def test_saving_a_step_twice_writes_it_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def count_and_fill(directory: Path) -> None:
        calls.append(directory)
        fill(directory)

    with writer(tmp_path) as saves:
        saves.save(100, count_and_fill)
        saves.save(100, count_and_fill)  # the last step, and the end of the run
    assert len(calls) == 1


class Gate:
    """Makes uploads wait until it is opened, and counts how many run at the same time."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = 0
        self.max_running = 0
        self._upload = storage.upload

    def __call__(self, local_path: str, uri: str, **options: object) -> None:
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        self.open.wait(10)
        self._upload(local_path, uri, **options)
        self.running -= 1


def test_save_returns_before_the_upload_and_the_next_save_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(storage, "upload", gate)
    with writer(tmp_path) as saves:
        saves.save(100, fill)
        assert steps(tmp_path) == []
        threading.Timer(0.1, gate.open.set).start()
        saves.save(200, fill)
        assert saves.last.step == 100
    assert gate.max_running == 1
    assert steps(tmp_path) == [200, 100]


def test_changes_after_save_are_not_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(storage, "upload", gate)
    weights = bytearray(b"step 100")
    with writer(tmp_path) as saves:
        saves.save(100, lambda directory: (directory / "weights").write_bytes(weights))
        weights[:] = b"step 101"
        gate.open.set()
    assert (Path(saves.last.uri) / "weights").read_bytes() == b"step 100"


def failing(error: Exception, *, times: int) -> Callable[..., None]:
    """Return a `storage.upload` that fails `times` times in the middle of a checkpoint, then works again."""
    upload, remaining = storage.upload, [times]

    def upload_or_fail(local_path: str, uri: str, **options: object) -> None:
        if remaining[0] and uri.endswith("part-1.safetensors"):
            remaining[0] -= 1
            raise error
        upload(local_path, uri, **options)

    return upload_or_fail


DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [DISK_FULL, StorageError("s3://bucket: 507 from the server")])
def test_failed_saves_are_reported_and_the_previous_checkpoint_stays(
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
            assert checkpoint.fetch_latest(str(tmp_path / "checkpoints"), tmp_path / "into", run_id="run") is not None
    assert steps(tmp_path) == [400, 100]
    assert [message.split(" could")[0] for message in messages] == [
        "the checkpoint of step 200",
        "the checkpoint of step 300",
    ]
    assert "step-000000100.attempt-1 stays the newest" in messages[0]
    assert not (tmp_path / "checkpoints" / "step-000000200.attempt-1").exists()  # its space is freed
    assert scratch_is_empty(tmp_path)


def test_more_failures_in_a_row_than_tolerated_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_close_raises_if_the_last_save_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "upload", failing(DISK_FULL, times=1))
    saves = writer(tmp_path)
    saves.save(100, fill)
    with pytest.raises(CheckpointError, match="the last checkpoint could not be written"):
        saves.close()


def test_full_local_disk_in_fill_is_tolerated(tmp_path: Path) -> None:
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


def test_other_errors_of_fill_are_raised_at_once(tmp_path: Path) -> None:
    def raise_key_error(directory: Path) -> None:
        raise KeyError("optimizer")

    with writer(tmp_path) as saves, pytest.raises(KeyError):
        saves.save(100, raise_key_error)
    assert scratch_is_empty(tmp_path)


def test_other_background_errors_are_raised_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "upload", failing(TypeError("a bug"), times=1))
    saves = writer(tmp_path)
    saves.save(100, fill)
    with pytest.raises(TypeError, match="a bug"):
        saves.save(200, fill)
    saves.close()


def test_failing_save_does_not_hide_an_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "upload", failing(DISK_FULL, times=9))
    messages: list[str] = []
    with pytest.raises(ZeroDivisionError), writer(tmp_path, messages=messages) as saves:
        saves.save(100, fill)
        raise ZeroDivisionError
    assert messages[-1].startswith("while ending: the last checkpoint")


def test_damaged_upload_is_detected_before_older_checkpoints_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server accepts an upload but stores other bytes."""
    upload = storage.upload

    def corrupting_upload(local_path: str, uri: str, **options: object) -> None:
        upload(local_path, uri, **options)
        if "step-000000300" in uri and uri.endswith("part-1.safetensors"):
            Path(uri).write_bytes(bytes(100_000))

    monkeypatch.setattr(storage, "upload", corrupting_upload)
    messages: list[str] = []
    with writer(tmp_path, messages=messages) as saves:
        for step in (100, 200, 300, 400):
            saves.save(step, fill)
    assert "part-1.safetensors does not match" in messages[0]
    assert steps(tmp_path) == [400, 300, 200]  # 300 does not count towards keep


def test_superseded_attempt_writes_nothing(tmp_path: Path) -> None:
    """A suspended process wakes up after another attempt has taken over."""
    newest = [1]
    saves = writer(tmp_path, newest_attempt=lambda: newest[0])
    saves.save(100, fill)
    saves.wait()
    newest[0] = 2
    saves.save(200, fill)
    with pytest.raises(SupersededAttempt, match="attempt 2 of this run has taken over from attempt 1"):
        saves.close()
    assert steps(tmp_path) == [100]
    assert scratch_is_empty(tmp_path)


def test_attempt_superseded_during_its_upload_writes_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, upload = [1], storage.upload

    def upload_and_supersede(local_path: str, uri: str, **options: object) -> None:
        upload(local_path, uri, **options)
        newest[0] = 2

    monkeypatch.setattr(storage, "upload", upload_and_supersede)
    saves = writer(tmp_path, newest_attempt=lambda: newest[0])
    saves.save(100, fill)
    with pytest.raises(SupersededAttempt):
        saves.wait()
    assert steps(tmp_path) == []


def test_failed_deletion_is_only_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid_deletion(uri: str, **options: object) -> None:
        raise StorageError(f"{uri}: deletion is forbidden")

    messages: list[str] = []
    with writer(tmp_path, messages=messages) as saves:
        saves.save(100, fill)
        saves.wait()
        monkeypatch.setattr(storage, "delete", forbid_deletion)
        for step in (200, 300):
            saves.save(step, fill)
    assert steps(tmp_path) == [300, 200, 100]
    assert "could not be removed" in messages[0]


def test_next_attempt_removes_temporary_directories_of_killed_ones(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    for name in ("xmodal-run-attempt-1-abc", "xmodal-run-attempt-3-abc", "xmodal-other-attempt-1-abc"):
        (scratch / name).mkdir(parents=True)
    writer(tmp_path, attempt=2).close()
    assert sorted(path.name for path in scratch.iterdir()) == ["xmodal-other-attempt-1-abc", "xmodal-run-attempt-3-abc"]


def save_until_killed(base: Path, attempt: int, first: int) -> None:
    with writer(base, attempt=attempt) as saves:
        for step in range(first, first + 1000):
            saves.save(step, fill)


def test_kill_at_any_moment_leaves_a_valid_newest_checkpoint(tmp_path: Path) -> None:
    """15 processes save without pause and are killed with SIGKILL after a random time."""
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
        restored = checkpoint.fetch_latest(str(tmp_path / "checkpoints"), tmp_path / "into", run_id="run")
        assert restored is not None
        assert restored.checkpoint.step >= step
        assert not any("SHA-256" in reason for reason in restored.skipped)
        step = restored.checkpoint.step
    assert step > 5  # the processes did save
    with writer(tmp_path, attempt=99) as saves:
        saves.save(10_000, fill)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # leftovers of killed processes are deleted
    assert scratch_is_empty(tmp_path)
