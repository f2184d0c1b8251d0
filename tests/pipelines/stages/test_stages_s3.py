"""Prepare, index, pretrain, kill, resume and evaluate on an S3 server, with faults of the store.

A run on S3 ends with the bytes of a run on local disk, also when it was killed or its requests failed.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from jobs import evaluate, prepare, pretrain
from support import fork_server
from support.in_process_job import JobResult, run_job
from support.model_flags import model_flags
from support.s3 import S3Server
from xmodal import checkpoint, storage
from xmodal.data import synthetic
from xmodal.data.index.corpus import open_corpus, read_extent
from xmodal.run import read_metrics, read_quarantine

pytestmark = [pytest.mark.ray, pytest.mark.s3]

ROWS, SHARDS, STEPS = 96, 6, 12  # 24 rows a step: three epochs
TINY = (
    *model_flags(), "--vocab-size", "600", "--batch-size", "24", "--steps", str(STEPS),
    "--rows-per-task", "32", "--log-every", "4", "--checkpoint-every", "4",
)  # fmt: skip


DISKS = tempfile.TemporaryDirectory(prefix="xmodal-disks-")


def start_words(corpus: str, runs: str, name: str = "a") -> list[str]:
    """Return the words of a start on a machine of its own: nothing has been read to its disk."""
    disk = f"{DISKS.name}/{uuid.uuid4().hex}"
    return ["vit-tiny", "--corpus", corpus, "--runs", runs, "--name", name, "--shuffle-folder", disk, *TINY]


def train(corpus: str, runs: str, *flags: str, name: str = "a") -> JobResult:
    return run_job(pretrain, *start_words(corpus, runs, name), *flags)


def result(run: str) -> dict[str, bytes]:
    """Return the weights, the optimizer state and the row counts of the last step."""
    newest = checkpoint.resolve(run)
    assert newest.step == STEPS
    names = ("model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json")
    return {name: storage.read(storage.join(newest.uri, name)) for name in names}


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return f"{s3_server.bucket_uri}/{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of images with captions beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    synthetic.write_corpus(str(folder / "tar"), "photo", ROWS, 0, size=32)
    corpus = open_corpus(str(folder / "tar"))
    (folder / "pairs").mkdir()
    for extent in range(len(corpus.extents)):
        for sample in read_extent(corpus, extent):
            for ending, data in sample.members.items():
                if ending != "json":
                    (folder / "pairs" / f"{sample.key}.{ending}").write_bytes(data)
    return folder / "pairs"


@pytest.fixture(scope="module")
def corpus(folder: Path, bucket: str) -> str:
    done = run_job(prepare, str(folder), f"{bucket}/corpus", "--rows-per-shard", str(ROWS // SHARDS), "--workers", "1")
    assert done.code == 0, done.err
    assert f"rows     {ROWS} written, 0 refused" in done.out
    assert storage.exists(f"{bucket}/corpus/_xmodal_index.parquet")
    return f"{bucket}/corpus"


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: object) -> dict[str, bytes]:
    """Train on local disk, with paths relative to the directory that the run is started in; return its result."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run_job(prepare, str(folder), "corpus", "--rows-per-shard", "16", "--workers", "1").code == 0
        done = train("corpus", "runs")
    assert done.code == 0, done.err
    assert {path.name for path in (home / "runs" / "a").iterdir()} >= {"run.json", "metrics.jsonl", "checkpoints"}
    return result(str(home / "runs" / "a"))


def test_a_run_on_s3_equals_one_on_disk_and_can_be_evaluated(
    corpus: str, bucket: str, undisturbed: dict[str, bytes], ray_here: object
) -> None:
    done = train(f"{corpus}/{{00000..0000{SHARDS - 1}}}.tar", f"{bucket}/plain")
    assert done.code == 0, done.err
    assert result(f"{bucket}/plain/a") == undisturbed
    assert [line["step"] for line in read_metrics(f"{bucket}/plain/a")] == [4, 8, 12]
    for name in ("run.json", "metrics.jsonl"):
        assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in storage.read(f"{bucket}/plain/a/{name}")
    measured = run_job(evaluate, f"{bucket}/plain/a", f"{corpus}/*.tar")
    assert measured.code == 0, measured.err
    assert f"{ROWS} rows of" in measured.out and "text -> image" in measured.out


FAULTS: list[dict[str, object]] = [
    {"kind": "slow_down", "method": "GET", "key": "*/corpus/*.tar", "first": 3},
    {"kind": "slow_down", "method": "PUT", "key": "*/a/checkpoints/*", "first": 3},
    {"kind": "cut", "method": "GET", "key": "*/corpus/*.tar", "bytes": 5000, "skip": 4, "first": 3},
]
STALL = {"kind": "stall", "method": "GET", "key": "*/corpus/*.tar", "bytes": 5000, "seconds": 30, "skip": 9, "first": 1}
HELD_UPLOAD = {
    "kind": "delay",
    "method": "PUT",
    "key": "*/checkpoints/step-000000008.*/optimizer.safetensors",
    "seconds": 8,
    "first": 1,
}


def test_a_run_killed_during_an_upload_and_resumed_through_faults_equals_an_uninterrupted_one(
    corpus: str, bucket: str, undisturbed: dict[str, bytes], s3_server: S3Server, ray_here: object
) -> None:
    """SIGKILL ends the first start while it uploads the checkpoint of step 8; then `--resume`."""
    runs = f"{bucket}/killed"
    with s3_server.faults([HELD_UPLOAD, *FAULTS]) as faults:
        kill_when(lambda: faults.fired[0] > 0, corpus, runs)
        assert faults.fired[1:] == [3, 3, 3]
    assert [ref.step for ref in checkpoint.scan(f"{runs}/a/checkpoints")] == [4]
    refused = train(corpus, runs)
    assert refused.code == 2 and "--resume continues it" in refused.error
    with s3_server.faults([*FAULTS, STALL]) as faults:
        done = train(corpus, runs, "--resume")
        assert faults.fired == [3, 3, 3, 1]
    assert done.code == 0, done.err
    assert "start at step 4 from checkpoint step-000000004.attempt-1" in done.err
    assert result(f"{runs}/a") == undisturbed
    assert [line["step"] for line in read_metrics(f"{runs}/a")] == [4, 8, 12]
    assert len(read_quarantine(f"{runs}/a")) == 0


def kill_when(it_is_time: Callable[[], bool], corpus: str, runs: str) -> None:
    """Start a run with a Ray of its own, kill its process group, and return when all its processes have ended."""
    mark = uuid.uuid4().hex
    words = [*start_words(corpus, runs), "--address", "local"]
    driver = subprocess.Popen(
        fork_server.command("jobs.pretrain", *words),
        env={**os.environ, "XMODAL_TEST_MARK": mark},
        cwd=Path(__file__).parents[3],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    try:
        while not it_is_time():
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < deadline, "the run did not come to the moment of its death"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    while living := processes_with(mark):
        assert time.monotonic() < deadline, f"processes outlive their run: {living}"
        time.sleep(0.05)


def processes_with(mark: str) -> list[int]:
    """Return the running processes that were started with this mark in their environment."""
    pids = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended just now, or is another user's
            if mark.encode() in environment.read_bytes():
                pids.append(int(environment.parent.name))
    return pids


def test_a_missing_shard_stops_the_run_or_is_quarantined_as_configured(
    corpus: str, bucket: str, s3_server: S3Server, ray_here: object
) -> None:
    runs, gone = f"{bucket}/gone", "*/corpus/00003.tar"
    with s3_server.faults([{"kind": "not_found", "method": "GET", "key": gone, "skip": 1}]):  # the tokenizer saw it
        stopped = train(corpus, runs)
    assert stopped.code == 3, stopped.err
    assert "16 of 96 rows (16.7%)" in stopped.error and "shard_missing" in stopped.error
    assert len(read_quarantine(f"{runs}/a")) == 16
    with s3_server.faults([{"kind": "not_found", "method": "GET", "key": gone}]):
        done = train(corpus, runs, "--resume", "--max-bad-fraction", "1")
    assert done.code == 0, done.err
    ledger = json.loads(result(f"{runs}/a")["state.json"])["ledger"]
    assert ledger == {"planned": 288, "delivered": 240, "quarantined": 48, "padding": 0}
    records = read_quarantine(f"{runs}/a").to_pylist()
    assert {(record["shard"], record["reason"]) for record in records} == {("00003.tar", "shard_missing")}
    assert len({(record["epoch"], record["row"]) for record in records}) == len(records) == 48


def test_a_store_that_keeps_failing_is_a_one_line_error(
    corpus: str, bucket: str, s3_server: S3Server, ray_here: object
) -> None:
    """The permission to read one shard is removed during the run."""
    with s3_server.faults([{"kind": "forbidden", "method": "GET", "key": "*/corpus/00004.tar", "skip": 1}]):
        done = train(corpus, f"{bucket}/refused", "--restarts", "0")
    assert done.code == 1, done.err
    assert f"{corpus}/00004.tar: these credentials may not do this (AccessDenied)" in done.error
    assert "--resume continues it" in done.error and len(done.error) < 800
    assert "ray" not in done.error.lower() and os.environ["AWS_SECRET_ACCESS_KEY"] not in done.error


WRONG = "a-secret-that-is-not-the-secret"


@pytest.mark.parametrize(
    ("environment", "corpus_uri", "runs", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "{corpus}", "{bucket}/bad", "nothing answers at the endpoint"),
        ({"AWS_SECRET_ACCESS_KEY": WRONG}, "{corpus}", "{bucket}/bad", "the server refuses the secret key"),
        ({"AWS_ACCESS_KEY_ID": "test:nobody"}, "{corpus}", "{bucket}/bad", "the server refuses the secret key"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "{corpus}", "{bucket}/bad", "no credentials"),
        ({}, "{corpus}", "s3://xmodal-no-such-bucket/runs", "the bucket does not exist"),
        ({}, "s3://xmodal-no-such-bucket/{{00..11}}.tar", "{bucket}/bad", "the bucket does not exist"),
        ({}, "{corpus}-not/*.tar", "{bucket}/bad", "no file is stored there"),
    ],
    ids=["endpoint", "secret", "key id", "no credentials", "bucket of the runs", "bucket of a pattern", "folder"],
)
def test_wrong_storage_is_a_one_line_error_before_any_worker_starts(
    environment: dict[str, str | None], corpus_uri: str, runs: str, expected: str, bucket: str, monkeypatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setattr(
        "pipelines.runtime.cluster.connect", mock.Mock(side_effect=AssertionError("the cluster was reached"))
    )
    places = {"corpus": f"{bucket}/corpus", "bucket": bucket}
    began = time.monotonic()
    done = train(corpus_uri.format(**places), runs.format(**places))
    assert time.monotonic() - began < 15
    assert done.code == 2 and expected in done.error
    wrong = corpus_uri if "-no" in corpus_uri else runs
    assert wrong.format(**places).split("{")[0].split("*")[0].rstrip("/") in done.error
    assert "credentials: " in done.error and "http://127.0.0.1:" in done.error
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY", WRONG)
    assert secret not in done.error + done.out
