"""Jobs on a real cluster by its job server: Ray's own command, and ours around it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ray.job_submission import JobStatus

from jobs import submit
from pipelines.ops import submission
from xmodal.errors import ConfigError

ROOT = Path(__file__).parents[3]
TINY = (
    "--arguments", "image_size=32", "patch_size=8", "width=32", "depth=1", "heads=2", "text_width=32", "text_depth=1",
    "text_heads=2", "context=16", "dim=32", "--vocab-size", "600", "--batch-size", "24", "--steps", "3",
    "--rows-per-task", "48", "--log-every", "1",
)  # fmt: skip


def pretrain(runs, corpus, name, *flags):
    return ["jobs.pretrain", "vit-tiny", "--corpus", corpus, "--runs", str(runs), "--name", name, *TINY, *flags]


def ours(head, *arguments, timeout=240, **environment):
    """`python -m jobs.submit` in the checkout, as a person without RAY_ variables."""
    flags = ("--address", head.jobs, "--token-file", str(head.token_file))
    command = [sys.executable, "-m", "jobs.submit", *flags, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=head.environment() | environment, capture_output=True, text=True, check=False,
        timeout=timeout,
    )  # fmt: skip


pytestmark = [pytest.mark.ray]


@pytest.fixture(scope="module")
def trained(head, pairs, tmp_path_factory):
    """A run of two workers by Ray's own command line, as the README has it."""
    runs = tmp_path_factory.mktemp("submitted")
    command = [
        str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", head.jobs, "--working-dir", ".", "--",
        "python", "-m", *pretrain(runs, pairs, "by-ray", "--workers", "2"),
    ]  # fmt: skip
    environment = head.environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_file)}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)
    return runs, found


def test_ray_job_submit_trains_on_two_workers(trained):
    runs, found = trained
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 worker(s) start at step 0" in found.stdout and "step 3/3" in found.stdout
    assert list((runs / "by-ray" / "checkpoints").glob("step-000000003.*/COMMITTED.json"))
    assert "succeeded" in found.stdout


def test_a_submission_shows_the_log_and_ends_with_the_jobs_own_status(head, pairs):
    """A corpus that is not there gives the job's 2; the same name is then free again, with a number."""
    failed = ours(head, "--name", "look", "--", "jobs.inspect", f"{pairs}/nothing")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "error: " in failed.stdout and "look failed with exit status 2" in failed.stderr
    done = ours(head, "--name", "look", "--", "jobs.inspect", pairs, "--rows", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted look-2 to" in done.stderr and "96 in" in done.stdout
    assert "Traceback" not in failed.stdout + failed.stderr + done.stdout + done.stderr


def test_the_doctor_looks_at_the_cluster_from_inside(head, trained, pairs):
    """Through the job server; more workers than the cluster can hold is its one complaint, and its status."""
    runs, _ = trained
    found = ours(
        head, "--", "jobs.doctor", "--corpus", pairs, "--runs", str(runs), "--workers", "64", "--cpus-per-worker", "1"
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert found.stdout.count("bad ") == 1 and "workers=64 with 1 CPU each can never start" in found.stdout
    for words in ("on 1 machine", "token", "index fresh", f"storage {runs}"):
        assert words in found.stdout


def test_a_job_that_runs_is_refused_under_its_name_and_can_be_stopped(head, tmp_path):
    """A watcher that is interrupted leaves the job; the job server knows it; a second one of that name is refused."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "jobs" / "demo.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(300)\n")
    arguments = ("--working-dir", str(tmp_path), "--name", "sleeper", "--", "jobs.demo", "--runs", "/nowhere")
    flags = ["--address", head.jobs, "--token-file", str(head.token_file)]
    watching = subprocess.Popen(
        [sys.executable, "-m", "jobs.submit", *flags, *arguments], cwd=ROOT, env=head.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    for line in watching.stdout:
        if line == "begun\n":
            break
    refused = ours(head, *arguments)
    assert refused.returncode == 2 and "the job sleeper is still running" in refused.stderr
    assert "ray job stop sleeper" in refused.stderr and "Traceback" not in refused.stderr
    os.killpg(watching.pid, signal.SIGINT)
    _, told = watching.communicate(timeout=60)
    assert watching.returncode == 130 and "sleeper goes on" in told
    client, _ = submission.connect(head.jobs, head.token_file.read_text(), print)
    assert client.get_job_status("sleeper") == JobStatus.RUNNING
    client.stop_job("sleeper")
    deadline = time.monotonic() + 60
    while not client.get_job_status("sleeper").is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert submission.follow(client, "sleeper", print, lambda text: None) == submission.STOPPED


@pytest.mark.parametrize("token", ["wrong" * 8, ""])
def test_a_wrong_or_missing_token_is_one_line(head, tmp_path, token):
    flags = ["--address", head.jobs]
    if token:
        (tmp_path / "token").write_text(token)
        flags += ["--token-file", str(tmp_path / "token")]
    command = [sys.executable, "-m", "jobs.submit", *flags, "--", "jobs.inspect", "s3://b/c"]
    home = {"HOME": str(tmp_path)}
    found = subprocess.run(
        command, cwd=ROOT, env=head.environment() | home, capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 2 and found.stderr.count("\n") == 1, found.stderr
    assert "refuses" in found.stderr and "--token-file" in found.stderr


def test_a_job_server_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(submission.ADDRESS, "")
    with pytest.raises(ConfigError, match=r"no job server answers at http://127\.0\.0\.1:1 .*ray dashboard"):
        submission.connect("127.0.0.1:1", None, print)
    with pytest.raises(ConfigError, match="is not a job server's address"):
        submission.connect("ray://127.0.0.1:1", None, print)


def test_a_cluster_that_has_just_started_is_waited_for(monkeypatch):
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    answers = [RuntimeError("status code 500: No available agent to submit job"), None]
    told = []

    def send():
        if answer := answers.pop(0):
            raise answer

    submission._when_ready(send, told.append)
    assert not answers and len(told) == 1
    answers.append(RuntimeError("already exists"))
    with pytest.raises(RuntimeError, match="already exists"):
        submission._when_ready(send, told.append)


DONE, RUNNING = JobStatus.SUCCEEDED, JobStatus.RUNNING


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ({}, "pretrain-a"),
        ({"pretrain-a": DONE}, "pretrain-a-2"),
        ({"pretrain-a": DONE, "pretrain-a-2": JobStatus.FAILED}, "pretrain-a-3"),
        ({"pretrain-a": DONE, "pretrain-a-3": JobStatus.STOPPED}, "pretrain-a-2"),
        ({"pretrain-ab": RUNNING, "pretrain-a-b": RUNNING}, "pretrain-a"),
    ],
)
def test_a_name_whose_jobs_have_ended_gets_a_number(known, name):
    assert submission.free_name("pretrain-a", known) == name


def test_a_name_whose_job_runs_or_waits_is_refused():
    for status in (RUNNING, JobStatus.PENDING):
        with pytest.raises(ConfigError, match=f"pretrain-a-2 is still {status.value.lower()}: wait for it"):
            submission.free_name("pretrain-a", {"pretrain-a": DONE, "pretrain-a-2": status})


def test_a_package_holds_code_and_neither_data_nor_environments(tmp_path):
    code = tmp_path / "code"
    for name in ("xmodal/data/read.py", ".git/blob", ".venv/lib.so", "runs/a/weights.safetensors", "data/0.tar"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(os.urandom(1 << 20) if "/data/" not in name else b"code")
    assert submission.check_package(str(code)) < 10_000
    assert submission.check_package(str(ROOT)) < 4 << 20


def test_a_package_that_is_too_large_names_its_largest_files(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "PACKAGE_MIB", 1)
    (tmp_path / "weights.bin").write_bytes(os.urandom(2 << 20))
    with pytest.raises(ConfigError, match=r"has 2 MiB, more than 1: the largest are weights\.bin \(2 MiB\).*gitignore"):
        submission.check_package(str(tmp_path))


def test_mistakes_in_the_jobs_arguments_are_found_before_anything_is_sent():
    for arguments, message in {
        ("jobs.pretrain", "vit-tiny"): "behind a `--`",
        ("--", "jobs.pretrian", "vit-tiny"): "no job 'jobs.pretrian': did you mean 'jobs.pretrain'?",
        ("--", "jobs.pretrain", "vit-b-23", "--corpus", "c"): "did you mean 'vit-b-32'?",
        ("--", "jobs.pretrain", "vit-tiny", "--corpus", "c"): "--runs runs is relative",
        ("--", "jobs.pretrain", "vit-tiny", "--corpus", "c", "--workers", "0"): "workers must be at least 1",
        ("--", "jobs.embed", "s3://b/runs/a", "s3://b/c", "--to", "vectors"): "--to vectors is relative",
        ("--", "jobs.prepare", "s3://b/pairs.csv", "corpus/"): "TARGET corpus/ is relative",
    }.items():
        with pytest.raises(ConfigError) as error:
            submit.run(list(arguments))
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ("jobs.pretrain vit-tiny --corpus c --runs s3://b/runs --name first", "pretrain-first"),
        ("jobs.pretrain vit-tiny --corpus c --runs s3://b/runs", "pretrain-vit-tiny"),
        ("jobs.evaluate s3://b/runs/first/ s3://b/held-out", "evaluate-first"),
        ("jobs.doctor --workers 8 --runs s3://b/runs", "doctor"),
        ("jobs.bench plan", "bench-plan"),
    ],
)
def test_a_submission_is_called_after_its_job_and_run(job, name):
    assert submit.run_name(job.split(), submit.check(job.split())) == name


def test_a_dry_run_shows_what_would_be_sent_and_asks_no_server(monkeypatch, capsys):
    monkeypatch.setenv(submission.ADDRESS, "")
    monkeypatch.chdir(ROOT)
    flags = ["--address", "127.0.0.1:1", "--token", "secret", "--dry-run", "--"]
    assert submit.run([*flags, "jobs.evaluate", "s3://b/runs/first", "s3://b/it's"]) == 0
    told = capsys.readouterr().out
    shown = json.loads(told)
    assert shown["command"] == """python -m jobs.evaluate s3://b/runs/first 's3://b/it'"'"'s'"""
    assert (shown["name"], shown["address"]) == ("evaluate-first", "http://127.0.0.1:1")
    assert 0 < shown["package_mib"] < 10 and "secret" not in told


def test_flags_stand_before_the_dashes_and_python_may_be_named():
    assert submit.split(["--no-wait", "--", "python", "-m", "jobs.doctor"]) == (["--no-wait"], ["jobs.doctor"])
