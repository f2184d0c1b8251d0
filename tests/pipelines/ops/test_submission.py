"""Jobs on a real cluster by its job server: with Ray's own command, and with `jobs.submit`."""

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
from support.model_flags import model_flags
from xmodal.errors import ConfigError

ROOT = Path(__file__).parents[3]
TINY = (
    *model_flags(), "--vocab-size", "600", "--batch-size", "24", "--steps", "3",
    "--rows-per-task", "48", "--log-every", "1",
)  # fmt: skip


def pretrain(runs, corpus, name, *flags):
    return ["jobs.pretrain", "vit-tiny", "--corpus", corpus, "--runs", str(runs), "--name", name, *TINY, *flags]


def ours(head, *arguments, timeout=240, **environment):
    """Run `python -m jobs.submit` in the checkout, without RAY_ variables."""
    flags = ("--address", head.jobs, "--token-file", str(head.token_file))
    command = [sys.executable, "-m", "jobs.submit", *flags, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=head.environment() | environment, capture_output=True, text=True, check=False,
        timeout=timeout,
    )  # fmt: skip


pytestmark = [pytest.mark.ray]


@pytest.fixture(scope="module")
def trained(head, pairs, tmp_path_factory):
    """Train on two workers by Ray's own command line."""
    runs = tmp_path_factory.mktemp("submitted")
    command = [
        str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", head.jobs, "--working-dir", ".", "--",
        "python", "-m", *pretrain(runs, pairs, "by-ray", "--workers", "2"),
    ]  # fmt: skip
    environment = head.environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_file)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)
    return runs, done


def test_ray_job_submit_trains_on_two_workers(trained):
    runs, done = trained
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 worker(s) start at step 0" in done.stdout and "step 3/3" in done.stdout
    assert list((runs / "by-ray" / "checkpoints").glob("step-000000003.*/COMMITTED.json"))
    assert "succeeded" in done.stdout


def test_a_submission_shows_the_log_and_ends_with_the_jobs_own_status(head, pairs):
    """A corpus that does not exist gives the job's exit status 2; the name is then free again, with a number."""
    failed = ours(head, "--name", "look", "--", "jobs.inspect", f"{pairs}/nothing")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "error: " in failed.stdout and "look failed with exit status 2" in failed.stderr
    done = ours(head, "--name", "look", "--", "jobs.inspect", pairs, "--rows", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted look-2 to" in done.stderr and "96 in" in done.stdout
    assert "Traceback" not in failed.stdout + failed.stderr + done.stdout + done.stderr


def test_the_doctor_examines_the_cluster_from_inside(head, trained, pairs):
    """Through the job server; that the cluster cannot hold the workers is its only bad check, and its exit status."""
    runs, _ = trained
    done = ours(
        head, "--", "jobs.doctor", "--corpus", pairs, "--runs", str(runs), "--workers", "64", "--cpus-per-worker", "1"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("bad ") == 1 and "workers=64 with 1 CPU each can never start" in done.stdout
    for words in ("on 1 machine", "token", "index fresh", f"storage {runs}"):
        assert words in done.stdout


def test_a_second_job_of_the_name_of_a_running_one_is_rejected_and_the_first_can_be_stopped(head, tmp_path):
    """Interrupting the submission leaves the job running; a second job of that name is rejected."""
    for package in ("jobs", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
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
    _, output = watching.communicate(timeout=60)
    assert watching.returncode == 130 and "sleeper goes on" in output
    client, _ = submission.connect(head.jobs, head.token_file.read_text(), print)
    assert client.get_job_status("sleeper") == JobStatus.RUNNING
    client.stop_job("sleeper")
    deadline = time.monotonic() + 60
    while not client.get_job_status("sleeper").is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert submission.follow(client, "sleeper", print, lambda text: None) == submission.STOPPED_STATUS


@pytest.mark.parametrize("token", ["wrong" * 8, ""])
def test_a_wrong_or_missing_token_is_a_one_line_error(head, tmp_path, token):
    flags = ["--address", head.jobs]
    if token:
        (tmp_path / "token").write_text(token)
        flags += ["--token-file", str(tmp_path / "token")]
    command = [sys.executable, "-m", "jobs.submit", *flags, "--", "jobs.inspect", "s3://b/c"]
    home = {"HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=head.environment() | home, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "refuses" in done.stderr and "--token-file" in done.stderr


def test_a_job_server_that_does_not_answer_is_a_one_line_error(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(submission.ADDRESS_VARIABLE, "")
    with pytest.raises(ConfigError, match=r"no job server answers at http://127\.0\.0\.1:1 .*ray dashboard"):
        submission.connect("127.0.0.1:1", None, print)
    with pytest.raises(ConfigError, match="is not a job server's address"):
        submission.connect("ray://127.0.0.1:1", None, print)


def test_a_submission_waits_for_a_cluster_that_has_just_started(monkeypatch):
    monkeypatch.setattr(submission.time, "sleep", lambda seconds: None)
    answers = [RuntimeError("status code 500: No available agent to submit job"), None]
    output = []

    def send():
        if answer := answers.pop(0):
            raise answer

    submission._when_ready(send, output.append)
    assert not answers and len(output) == 1
    answers.append(RuntimeError("already exists"))
    with pytest.raises(RuntimeError, match="already exists"):
        submission._when_ready(send, output.append)


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


def test_a_name_whose_job_runs_or_waits_is_rejected():
    for status in (RUNNING, JobStatus.PENDING):
        with pytest.raises(ConfigError, match=f"pretrain-a-2 is still {status.value.lower()}: wait for it"):
            submission.free_name("pretrain-a", {"pretrain-a": DONE, "pretrain-a-2": status})


def test_a_package_holds_code_but_no_data_and_no_environments(tmp_path):
    code = tmp_path / "code"
    for name in ("xmodal/data/read.py", ".git/blob", ".venv/lib.so", "runs/a/weights.safetensors", "data/0.tar"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(os.urandom(1 << 20) if "/data/" not in name else b"code")
    assert submission.check_package(str(code)) < 10_000
    assert submission.check_package(str(ROOT)) < 4 << 20


def test_a_package_that_is_too_large_names_its_largest_files(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "MAX_PACKAGE_MIB", 1)
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
def test_a_submission_is_named_after_its_job_and_run(job, name):
    assert submit.run_name(job.split(), submit.check(job.split())) == name


def test_a_dry_run_shows_what_would_be_sent_and_asks_no_server(monkeypatch, capsys):
    monkeypatch.setenv(submission.ADDRESS_VARIABLE, "")
    monkeypatch.chdir(ROOT)
    flags = ["--address", "127.0.0.1:1", "--token", "secret", "--dry-run", "--"]
    assert submit.run([*flags, "jobs.evaluate", "s3://b/runs/first", "s3://b/it's"]) == 0
    output = capsys.readouterr().out
    shown = json.loads(output)
    assert shown["command"] == """python -m jobs.evaluate s3://b/runs/first 's3://b/it'"'"'s'"""
    assert (shown["name"], shown["address"]) == ("evaluate-first", "http://127.0.0.1:1")
    assert 0 < shown["package_mib"] < 10 and "secret" not in output


def test_flags_come_before_the_dashes_and_the_command_may_begin_with_python():
    assert submit.split(["--no-wait", "--", "python", "-m", "jobs.doctor"]) == (["--no-wait"], ["jobs.doctor"])
