"""A sweep whose driver is killed at twenty moments ends with the trials and the decisions of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import ray

from pipelines import sweep
from pipelines.config.run import RunOptions
from pipelines.config.sweep import SweepConfig
from support import fake_trials

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]
ROOT = Path(__file__).parents[3]
KILLS = 20
DRIVER = textwrap.dedent(
    """
    import sys
    from pipelines import sweep
    from tests.pipelines.sweep.test_sweep_kills import config

    sweep.run(config(sys.argv[1], resume=sys.argv[2] == "resume"), lambda event: print(event["kind"], flush=True))
    """
)


def config(runs, *, resume=False):
    """One trial at a time, so that every decision follows from the records."""
    return SweepConfig(
        run=fake_trials.Config(trouble=fake_trials.Trouble(pause_s=0.1)),
        sweep=RunOptions(name="sweep", runs=str(runs), resume=resume),
        command=("planted",),
        search=("optim.learning_rate=loguniform(1e-5,1e-1)",),
        metric=("score",),
        algorithm="tpe",
        algorithm_options=("n_startup_trials=3",),
        scheduler="asha",
        grace=0.25,
        trials=12,
        finalists=1,
        seeds=2,
        concurrent=1,
    )


def start_driver(runs, *, resume):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
    }
    command = [sys.executable, "-c", DRIVER, str(runs), "resume" if resume else "start"]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_after(driver, events, delay_s):
    """Kill the driver some time after it has told of so many trials; return whether it was still at work."""
    for line in driver.stdout:
        events -= line.strip() in ("started", "ended")
        if events <= 0:
            break
    time.sleep(delay_s)
    at_work = driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return at_work


def records(runs):
    return {path.name: path.read_text() for path in sorted(Path(runs, "sweep", "records").glob("*.json"))}


def decisions(trials):
    """What a sweep has decided and heard, without times."""
    return [
        (t.number, t.kind, dict(t.values), t.seed, t.status, t.why, t.asked, t.ended, t.parent,
         [(report.step, dict(report.metrics)) for report in t.reports])
        for t in trials
    ]  # fmt: skip


def test_twenty_kills_change_nothing(tmp_path):
    pytest.importorskip("optuna")
    runs, draw, killed, ended = tmp_path / "killed", random.Random(0), 0, {}
    for kill in range(KILLS):
        driver = start_driver(runs, resume=kill > 0)
        killed += kill_after(driver, draw.randrange(1, 4), draw.uniform(0.0, 1.0))
        found = records(runs)
        for name, text in ended.items():
            assert found[name] == text, f"kill {kill} changed {name}, which was over"
        ended = {name: text for name, text in found.items() if json.loads(text)["ended"]}
    disturbed = sweep.run(config(runs, resume=True))
    undisturbed = sweep.run(config(tmp_path / "undisturbed"))
    assert decisions(disturbed.trials) == decisions(undisturbed.trials)
    assert disturbed.chosen == undisturbed.chosen
    assert killed >= KILLS / 2 and {t.status for t in disturbed.trials} == {"finished", "stopped"}
    for trial in disturbed.trials:
        assert [report.step for report in trial.reports] == list(range(1, trial.reports[-1].step + 1))
