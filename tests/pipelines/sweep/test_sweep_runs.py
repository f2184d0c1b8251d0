"""A sweep of real runs on a cluster that outlives it: a stop, a killed driver and a copy leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import ray

from jobs import pretrain as pretrain_job
from jobs import sweep as job
from pipelines import sweep
from pipelines.config.run import RunOptions
from pipelines.runtime import output_path
from pipelines.stages import pretrain
from pipelines.sweep import results
from pipelines.sweep.clone import clone
from pipelines.sweep.cluster import check_run
from pipelines.sweep.plan import outline
from support.model_flags import model_flags
from support.worker_kills import read_weights, same_tensors
from xmodal.errors import ConfigError
from xmodal.storage import StorageOptions

pytestmark = [pytest.mark.ray]


def words(runs, corpus, *more):
    address = ray.get_runtime_context().gcs_address
    run = f"""jobs.pretrain vit-tiny --corpus {corpus} {" ".join(model_flags())} --vocab-size 600 --batch-size 24
        --steps 24 --learning-rate 0.001 --log-every 4 --checkpoint-every 12 --address {address}
        --cpus-per-worker 0.5 --cache {runs}/cache"""
    search = f"""--search optim.learning_rate=choice(0.001,1e-9) --algorithm grid --metric loss --mode min --runs {runs}
        --scheduler asha --grace 0.3 --finalists 0 --concurrent 1"""
    return [*search.split(), *more, "--", *run.split()]


def test_a_submitted_sweep_asks_for_a_place_that_lasts_once_and_not_again_for_its_trials(
    ray_here, scenes, tmp_path, monkeypatch
):
    monkeypatch.setattr(output_path, "in_submitted_job", lambda: True)
    config = job.parse(words(tmp_path, scenes)).config
    assert check_run(config.run, config.sweep.runs).run.runs == os.path.abspath("runs")
    with pytest.raises(ConfigError, match="--runs elsewhere is relative"):
        outline(replace(config, sweep=replace(config.sweep, runs="elsewhere")))


def groups():
    return [one for one in ray.util.placement_group_table().values() if one["state"] != "REMOVED"]


def free_cpus():
    return ray.available_resources().get("CPU", 0)


def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_trials_of_a_cluster_end_early_die_with_their_driver_and_are_resumed(scenes, ray_here, tmp_path):
    free, before = free_cpus(), groups()
    driver = subprocess.Popen([sys.executable, "-m", "jobs.sweep", *words(tmp_path, scenes)], start_new_session=True)
    until(lambda: (tmp_path / "sweep/trials/trial-000/metrics.jsonl").exists() or driver.poll() is not None, 150)
    assert driver.poll() is None and len(groups()) > len(before)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    until(lambda: len(groups()) == len(before) and free_cpus() == free)

    news = []
    config = job.parse(words(tmp_path, scenes, "--resume")).config
    result = sweep.run(config, news.append)
    kinds = [(trial.status, trial.attempts) for trial in result.trials]
    assert kinds[0] == ("finished", 2) and kinds[1][0] == "finished" and kinds[2][0] == "stopped", result.trials
    assert result.trials[2].share < 1 and "others were ahead (loss" in result.trials[2].why
    until(lambda: len(groups()) == len(before) and free_cpus() == free)
    one, other = (f"{result.uri}/trials/trial-00{number}" for number in (0, 1))
    assert same_tensors(
        read_weights(one), read_weights(other)
    )  # killed and resumed, and undisturbed: the same configuration
    files = results.write(result)
    assert json.loads((tmp_path / "sweep/sweep.json").read_text())["chosen"]["trial"] == result.chosen.trial
    pasted = pretrain_job.parse(files.command.split()[3:])
    assert pasted.optim.learning_rate == 0.001 and pasted.optim.steps == 24

    again = sweep.run(
        config,
        lambda message: (
            pytest.fail(str(message)) if isinstance(message, dict) and message["kind"] == "started" else None
        ),
    )
    assert [trial.to_plain() for trial in again.trials] == [trial.to_plain() for trial in result.trials]

    run = result.plan.make(result.trials[1].values, result.trials[1].seed)
    copy = replace(run, run=RunOptions(name="copy", runs=str(tmp_path)))
    clone(other, 12, copy, StorageOptions())
    ended = pretrain.run(replace(copy, run=replace(copy.run, resume=True)))
    assert same_tensors(read_weights(ended.run.uri), read_weights(other)) and ended.step == 24
