"""The doctor finds what is wrong with machines, storage and indexes, and names the fix."""

import os
import shutil
from dataclasses import replace

import pytest

from jobs import doctor as job
from pipelines.ops import doctor
from pipelines.runtime.cluster import ResourceConfig
from pipelines.runtime.machine import Machine
from xmodal.data.index.corpus import open_corpus

GIB = 2**30
RUNS = "s3://b/runs"
HEALTHY = Machine(
    name="10.0.0.1",
    versions={"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"},
    store=8 * GIB,
    shared_memory=9 * GIB,
    spill="/mnt/nvme",
    spill_free=100 * GIB,
    spill_used_share=0.1,
    open_files=65536,
    probes={RUNS: {"write": 0.1, "read": 0.05}},
)
OTHER = replace(HEALTHY, name="10.0.0.2")


def versions(**changed):
    """The versions of a healthy machine with some changed; None: the package is missing."""
    return {"versions": {name: v for name, v in (HEALTHY.versions | changed).items() if v}}


def checks(*machines):
    return [*doctor.check_machines(machines), *doctor.check_storage(machines)]


def test_healthy_machines_pass_every_check():
    assert {check.state for check in checks(HEALTHY, OTHER)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "state", "subject", "finding", "fix"),
    [
        (versions(ray="2.59.0"), "bad", "versions", "2.59.0 on 10.0.0.2", "constraints"),
        (versions(python="3.12.1"), "bad", "versions", "python 3.12.1 on", "one image"),
        (versions(torch=None), "bad", "versions", "torch missing on 10.0.0.2", "pip install"),
        (
            {"shared_memory": 0.06 * GIB},
            "warn",
            "shared memory",
            "0.1 GiB free for an object store of 8.0 GiB",
            "--shm-size=9g",
        ),
        ({"spill_free": 4 * GIB}, "warn", "disk for spill", "4.0 GiB free in /mnt/nvme on 10.0.0.2", "larger disk"),
        ({"spill_free": GIB}, "bad", "disk for spill", "1.0 GiB free", "larger disk"),
        ({"spill_used_share": 0.96}, "bad", "disk for spill", "96% used", "free some"),
        ({"ray_gpus": 4.0}, "bad", "GPUs", "Ray counts 4 on 10.0.0.2", "CUDA build"),
        ({"gpu_driver": True}, "warn", "GPUs", "torch 2.13.0 can use no GPU", "CUDA build"),
        ({"open_files": 1024}, "warn", "open files", "at most 1,024", "ulimit -n"),
        ({"probes": {RUNS: "403: check the permissions"}}, "bad", f"storage {RUNS}", "10.0.0.2: 403", "permission"),
        ({"probes": {RUNS: {"write": 3.0, "read": 0.05}}}, "warn", f"storage {RUNS}", "write 3,000 ms", "one region"),
    ],
)
def test_what_one_of_two_machines_lacks_is_found(changed, state, subject, finding, fix):
    [problem] = [check for check in checks(HEALTHY, replace(OTHER, **changed)) if check.state != "ok"]
    assert (problem.state, problem.subject) == (state, subject)
    assert finding in problem.finding and fix in problem.fix


def run_doctor(capsys, *flags):
    """Return the exit status and the output of the job on this machine."""
    import tyro

    config = tyro.cli(doctor.DoctorConfig, args=list(flags), config=(tyro.conf.OmitArgPrefixes,))
    status = job.run(config)
    return status, capsys.readouterr().out


def test_this_machine_passes_and_the_state_of_an_index_is_reported(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    corpus = tmp_path / "corpus"
    shutil.copytree(scenes, corpus, ignore=shutil.ignore_patterns("_xmodal*"))
    flags = ("--corpus", str(corpus), "--runs", str(tmp_path / "runs"))
    status, output = run_doctor(capsys, *flags)
    assert status == 0 and "4 shards without an index" in output and "write " in output, output
    open_corpus(str(corpus))
    assert "240 rows in 4 shards, index fresh" in run_doctor(capsys, *flags)[1]
    shards = sorted(corpus.glob("*.tar"))
    shards[0].unlink()
    os.utime(shards[1], ns=(1, 1))
    assert "2 shards new, changed or gone" in run_doctor(capsys, *flags)[1]
    assert not list((tmp_path / "runs").iterdir())


def test_what_would_break_a_run_gives_status_1(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    status, output = run_doctor(capsys, "--corpus", str(tmp_path / "nothing"), "--runs", str(tmp_path))
    assert status == 1 and "bad   corpus" in output and "nothing: no file is stored there" in output
    (tmp_path / "file").write_text("")
    status, output = run_doctor(capsys, "--corpus", scenes, "--runs", str(tmp_path / "file"))
    assert status == 1 and "bad   storage" in output and "fix: " in output
    assert "another directory" not in output
    assert "index fresh" in output or "without an index" in output  # all other checks are reported, too


def test_a_missing_token_or_one_that_others_can_read_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert doctor.check_token(local=False).state == "warn" and doctor.check_token(local=True).state == "ok"
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert doctor.check_token(local=False).fix == f"chmod 600 {path}"
    path.chmod(0o600)
    assert doctor.check_token(local=False) == doctor.Check("token", "ok", "on")


@pytest.mark.parametrize("workers", ["2", "2:4"])
def test_workers_that_can_never_start_are_bad(workers, monkeypatch):
    monkeypatch.setattr(doctor.cluster, "capacity", lambda: {"CPU": 4.0})
    assert doctor._check_workers(ResourceConfig(workers=workers)).state == "ok"
    check = doctor._check_workers(ResourceConfig(workers=workers, gpus_per_worker=1))
    assert check.state == "bad" and "workers=2 with 1 GPU each can never start" in check.finding


def test_the_capacity_of_an_autoscaled_cluster_is_what_it_can_grow_to(monkeypatch):
    monkeypatch.setattr(doctor.cluster.ray, "cluster_resources", lambda: {"CPU": 0.0})
    monkeypatch.setenv(doctor.cluster.AUTOSCALER_LIMITS, "CPU=640,GPU=32")
    assert doctor.cluster.capacity() == {"CPU": 640.0, "GPU": 32.0}
    assert doctor._check_workers(ResourceConfig(workers=8)).finding.startswith("8 with 1 CPU, 1 GPU each")
