"""Checkpoints and run directories on an S3 server that refuses requests, cuts answers and has damaged objects."""

import random
import uuid
from pathlib import Path

import pytest

from support.s3 import S3Server
from xmodal import checkpoint, storage
from xmodal.checkpoint import CheckpointWriter, Retention
from xmodal.errors import ConfigError, StorageError
from xmodal.run import (
    MetricsLog,
    Quarantine,
    claim_attempt,
    create_run,
    newest_attempt,
    open_run,
    read_metrics,
    read_quarantine,
)
from xmodal.storage import retry

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.01)


@pytest.fixture
def root(s3_server: S3Server) -> str:
    """Return a prefix of the bucket under which nothing is stored yet."""
    return f"{s3_server.bucket_uri}/{uuid.uuid4().hex[:8]}"


def fill(directory: Path) -> None:
    (directory / "tokenizer").mkdir()
    for number, path in enumerate(("model.safetensors", "optimizer.safetensors", "tokenizer/vocab é.json")):
        (directory / path).write_bytes(random.Random(number).randbytes(50_000))


def save(root: str, tmp_path: Path, *steps: int, keep: int = 2, attempt: int = 1) -> None:
    with CheckpointWriter(
        f"{root}/checkpoints", run_id="run", attempt=attempt, retention=Retention(keep=keep), scratch=tmp_path
    ) as writer:
        for step in steps:
            writer.save(step, fill)


def fetch_latest(root: str, tmp_path: Path, messages: list[str] | None = None) -> checkpoint.RestoredCheckpoint | None:
    notify = (messages if messages is not None else []).append
    return checkpoint.fetch_latest(f"{root}/checkpoints", tmp_path / "into", run_id="run", notify=notify)


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_saves_are_pruned_and_the_newest_is_restored(root: str, tmp_path: Path) -> None:
    assert fetch_latest(root, tmp_path) is None
    save(root, tmp_path, 100, 200, 300)
    assert [ref.step for ref in checkpoint.scan(f"{root}/checkpoints")] == [300, 200]
    restored = fetch_latest(root, tmp_path)
    (tmp_path / "expected").mkdir()
    fill(tmp_path / "expected")
    assert content(restored.path) == content(tmp_path / "expected")
    assert checkpoint.resolve(root).step == checkpoint.resolve(f"{root}/checkpoints/").step == 300


def test_refused_requests_and_cut_answers_are_retried(root: str, s3_server: S3Server, tmp_path: Path) -> None:
    rules = [
        {"kind": "slow_down", "key": "*/model.safetensors", "first": 3},
        {"kind": "slow_down", "key": "*/COMMITTED.json", "first": 2},
        {"kind": "cut", "key": "*/optimizer.safetensors", "method": "GET", "first": 2, "bytes": 1000},
    ]
    with s3_server.faults(rules) as faults:
        save(root, tmp_path, 100, 200)
        assert fetch_latest(root, tmp_path).checkpoint.step == 200
        assert faults.fired == [3, 2, 2]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/vocab é.json", "COMMITTED.json"])
def test_changed_bytes_fall_back_to_the_previous_checkpoint(name: str, root: str, tmp_path: Path) -> None:
    save(root, tmp_path, 100, 200)
    uri = f"{root}/checkpoints/step-000000200.attempt-1/{name}"
    data = bytearray(storage.read(uri))
    data[len(data) // 2] ^= 1
    storage.write(uri, bytes(data))
    messages: list[str] = []
    assert fetch_latest(root, tmp_path, messages).checkpoint.step == 100
    assert name in messages[0]


def test_missing_object_is_named_and_the_previous_checkpoint_restored(root: str, tmp_path: Path) -> None:
    save(root, tmp_path, 100, 200)
    storage.delete(f"{root}/checkpoints/step-000000200.attempt-1/optimizer.safetensors")
    messages: list[str] = []
    assert fetch_latest(root, tmp_path, messages).checkpoint.step == 100
    assert "optimizer.safetensors is missing" in messages[0]


def test_unreachable_server_raises_instead_of_falling_back(
    root: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(root, tmp_path, 100)
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    with s3_server.down(), pytest.raises(StorageError):
        fetch_latest(root, tmp_path)
    assert fetch_latest(root, tmp_path).checkpoint.step == 100


def test_missing_bucket_raises_with_its_name(s3_server: S3Server) -> None:
    with pytest.raises(StorageError, match="xmodal-no-such-bucket"):
        create_run("s3://xmodal-no-such-bucket", "demo", config={})
    with pytest.raises(ConfigError, match="xmodal-no-such-bucket"):
        open_run("s3://xmodal-no-such-bucket", "demo", config={})


def test_run_directory_on_s3_is_resumed(root: str, tmp_path: Path) -> None:
    run = create_run(root, "demo", config={"lr": 0.1}, corpora={"train": "ab"})
    with pytest.raises(ConfigError, match="--resume"):
        create_run(root, "demo", config={})
    assert claim_attempt(run.uri) == newest_attempt(run.uri) == 1
    with MetricsLog(run.uri) as log:
        for step in (1, 2, 3):
            log.log(step, {"loss": 1 / step})
    Quarantine(run.uri).sync()
    resumed = open_run(root, "demo", config={"lr": 0.1}, corpora={"train": "ab"})
    assert resumed.id == run.id
    with MetricsLog(run.uri, after_step=2) as log:
        log.log(3, {"loss": 9.0})
        log.sync()
        log.log(4, {"loss": 8.0})
    assert [line["step"] for line in read_metrics(run.uri)] == [1, 2, 3, 4]
    assert len(storage.list_files(f"{run.uri}/tensorboard")) == 2
    assert len(read_quarantine(run.uri)) == 0
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        open_run(root, "demp")


def test_superseded_attempt_cannot_write_after_a_new_claim(root: str, tmp_path: Path) -> None:
    run = create_run(root, "demo", config={})
    first = claim_attempt(run.uri)
    suspended = CheckpointWriter(
        run.checkpoints_uri,
        run_id=run.id,
        attempt=first,
        newest_attempt=lambda: newest_attempt(run.uri),
        scratch=tmp_path,
    )
    suspended.save(100, fill)
    suspended.wait()
    claim_attempt(run.uri)
    suspended.save(200, fill)
    with pytest.raises(checkpoint.SupersededAttempt):
        suspended.close()
    assert checkpoint.resolve(run.uri).step == 100
