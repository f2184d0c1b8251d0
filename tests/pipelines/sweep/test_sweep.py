"""A sweep around trials that need no training: what is stopped, copied, tried again, survived, and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import arguments
from jobs import sweep as job
from pipelines import sweep
from pipelines.config.run import RunOptions
from pipelines.config.sweep import SweepConfig
from pipelines.sweep import results, sealed_oracle
from pipelines.sweep.plan import outline
from pipelines.sweep.search_algorithm import PointSource
from support import fake_trials
from xmodal.errors import ConfigError
from xmodal.report.search_comparison import best_so_far
from xmodal.search.config_fields import with_values
from xmodal.search.objective import SearchObjective
from xmodal.search.trial import BASELINE, CLONE, FAILED, FINALIST, FINISHED, REJECTED, STOPPED

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]
RATE = "optim.learning_rate=loguniform(1e-5,1e-1)"


def config(runs, **more):
    given = {"search": (RATE,), "metric": ("score",), "scheduler": "fifo", "trials": 6, "finalists": 0, "concurrent": 2}
    named = RunOptions(name=more.pop("name", "sweep"), runs=str(runs), resume=more.pop("resume", False))
    return SweepConfig(run=fake_trials.Config(), sweep=named, command=("planted",), **given | more)


def resumed(asked):
    return replace(asked, sweep=replace(asked.sweep, resume=True))


def values(result, status=FINISHED):
    return {t.number: t.values["optim.learning_rate"] for t in result.trials if t.status == status}


def test_all_trials_end_the_baseline_is_one_and_the_best_is_found(tmp_path):
    news = []
    result = sweep.run(config(tmp_path, finalists=2, seeds=3), news.append)
    assert [t.kind for t in result.trials].count(BASELINE) == 1 and result.trials[0].values == {
        "optim.learning_rate": 1e-4
    }
    assert all(t.status == FINISHED and len(t.reports) == 12 for t in result.trials)
    repeats = [t for t in result.trials if t.kind == FINALIST]
    assert len(repeats) == 6 and {t.seed for t in repeats} == {
        1,
        2,
    }  # two finalists and the baseline, two more seeds each
    assert len(result.trials) == 13 == result.plan.trial_count
    nearest = max(result.trials[:7], key=lambda t: fake_trials.gain(t.values["optim.learning_rate"]))
    assert result.chosen.best == nearest.number
    assert {m["kind"] for m in news} >= {"started", "ended", "table"}
    files = results.write(result)
    table = pq.read_table(files.parquet).to_pydict()
    assert table["status"] == [FINISHED] * 13 and table["oracle/accuracy"][0] == -table["score"][0]
    page = Path(files.page).read_text()
    assert "Parallel coordinates" in page and "Importance" in page and "http" not in page.replace("http-equiv", "")
    assert f"--learning-rate {result.trials[result.chosen.trial].values['optim.learning_rate']}" in files.command
    assert list(tmp_path.glob("sweep/tensorboard/trial-*/**/events*"))
    assert "oracle" not in page  # nobody asked for the regret
    asked = sweep.run(config(tmp_path, finalists=2, seeds=3, resume=True, regret="sealed"), news.append)
    assert results.write(asked).regret.startswith("oracle/accuracy: ")


def test_another_search_stands_beside_with_what_it_found_for_how_much_work(tmp_path):
    few = sweep.run(config(tmp_path, name="few", trials=2, concurrent=1))
    results.write(few)
    more = sweep.run(config(tmp_path, trials=4, concurrent=1, beside="few", regret="sealed"))
    page = Path(results.write(more).page).read_text()
    assert "Compared with another search" in page and "Best score so far" in page and "chosen: oracle accuracy" in page
    ours, theirs = sealed_oracle.beside(more, sealed_oracle.judge(more, more.uri, more.trials))
    assert (ours.full_runs, theirs.full_runs) == (5, 3) and theirs.chosen == few.chosen.trial
    assert theirs.oracle_metrics["oracle/accuracy"] == -few.trials[few.chosen.trial].last("score")
    line = best_so_far(theirs, SearchObjective(metric="score"))
    assert [spent for spent, _ in line] == [1, 2, 3] and line[-1][1] == max(t.last("score") for t in few.trials)
    with pytest.raises(ConfigError, match="there is no sweep 'none'"):
        sweep.run(config(tmp_path, name="b", beside="none"))


def test_asha_stops_what_lags_behind_at_a_share_of_its_own_budget(tmp_path):
    result = sweep.run(config(tmp_path, scheduler="asha", grace=0.25, trials=8, concurrent=1))
    stopped = [t for t in result.trials if t.status == STOPPED]
    assert stopped and all("others were ahead" in t.why and t.share >= 0.25 for t in stopped)
    assert result.trials[0].status == FINISHED  # the baseline, however bad
    best = max(result.trials, key=lambda t: fake_trials.gain(t.values["optim.learning_rate"]))
    assert best.status == FINISHED and result.chosen.trial in (best.number, 0)
    steps = sum(len(t.reports) for t in result.trials)
    assert steps < 0.75 * 12 * len(result.trials)


def test_trouble_is_tried_again_recorded_and_sinks_nothing(tmp_path):
    search = ("trouble.kind=choice(none,raises,raises_once,hangs,killed,memory)",)
    result = sweep.run(config(tmp_path, search=search, algorithm="grid", silent_s=20.0))
    found = {t.values["trouble.kind"]: t for t in result.trials[1:]}
    assert {kind for kind, t in found.items() if t.status == FINISHED} == {"none", "raises_once"}
    assert len(found["raises_once"].errors) == 1 and found["raises_once"].attempts == 2
    assert (
        whole(found["raises_once"]) and len(found["raises_once"].reports) == 12
    )  # went on from its checkpoint, no step twice
    for kind, told in {
        "raises": "planted error",
        "hangs": "nothing for 20 s",
        "killed": "signal 9",
        "memory": "MemoryError",
    }.items():
        assert found[kind].status == FAILED and found[kind].attempts == 2, found[kind]
        assert told in found[kind].why and len(found[kind].errors) == 2


def test_a_population_lives_on_in_copies_of_its_best(tmp_path):
    given = {"scheduler": "pbt", "population": 4, "intervals": 4, "concurrent": 2, "seed": 1}
    result = sweep.run(config(tmp_path, **given))
    copies = [t for t in result.trials if t.kind == CLONE]
    assert copies and all(t.status in (FINISHED, STOPPED) for t in result.trials)
    for copy in copies:
        parent = next(t for t in result.trials if t.number == copy.parent)
        kept = [line for line in fake_trials.lineage(f"{result.uri}/trials/{copy.name}") if line[1] <= copy.parent_step]
        assert kept[-1] in fake_trials.lineage(f"{result.uri}/trials/{parent.name}")  # its weights, to the bit
        assert copy.values != parent.values and whole(copy)
    leavers = [t for t in result.trials if "gave way to a copy" in t.why]
    assert len(leavers) == len(copies)
    finished = [t.last("score") for t in result.trials if t.status == FINISHED and t.kind != BASELINE]
    assert len(finished) == 4
    with pytest.raises(ConfigError, match="cannot change within a run"):
        sweep.run(config(tmp_path / "b", search=("optim.weight_decay=uniform(0,0.5)",), **given))


def test_a_copy_that_was_recorded_and_not_yet_made_is_made_when_its_sweep_is_resumed(tmp_path):
    """Its driver was killed in between: it starts with its parent's weights, not with none."""
    given = {"scheduler": "pbt", "population": 4, "intervals": 4, "concurrent": 2, "seed": 1}
    result = sweep.run(config(tmp_path, **given))
    copy = max((t for t in result.trials if t.kind == CLONE and t.status == FINISHED), key=lambda t: t.parent_step)
    shutil.rmtree(f"{result.uri}/trials/{copy.name}")
    cut = replace(copy, status="paused", ended=0, attempts=0, reports=copy.reports[: copy.parent_step])
    Path(result.uri, "records", f"{copy.number:03d}.json").write_text(json.dumps(cut.to_plain()))
    again = sweep.run(config(tmp_path, **given, resume=True))
    made = again.trials[copy.number]
    assert made.status == FINISHED and whole(made) and made.last("score") == copy.last("score")
    parent = f"trial-{copy.parent:03d}"
    assert parent in {name for name, *_ in fake_trials.lineage(f"{result.uri}/trials/{copy.name}")}


def test_pb2_copies_and_ends(tmp_path):
    pytest.importorskip("sklearn")
    result = sweep.run(config(tmp_path, scheduler="pb2", population=4, intervals=3, concurrent=2))
    assert [t for t in result.trials if t.kind == CLONE]
    assert all(t.status in (FINISHED, STOPPED) for t in result.trials)
    assert all(0 <= unit <= 1 for t in result.trials for unit in t.units)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from support import fake_trials
from pipelines import sweep
from tests.pipelines.sweep.test_sweep import slow
if __name__ == "__main__":
    sweep.run(slow({runs!r}))
"""


def whole(trial):
    """Every step is reported once and in order, whoever was killed on the way."""
    return [report.step for report in trial.reports] == list(range(1, trial.reports[-1].step + 1))


def slow(runs):
    return replace(config(runs, trials=4), run=fake_trials.Config(trouble=fake_trials.Trouble(pause_s=0.1)))


def test_a_killed_driver_takes_its_trials_along_and_is_resumed_with_the_same_ones(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parents[2]), runs=str(tmp_path / "runs")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    driver = subprocess.Popen([sys.executable, str(script)], env=environment)
    records = tmp_path / "runs" / "sweep" / "records"
    _until(lambda: _count(records, "finished") >= 2 and _unheard(records), driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = {path.name: path.read_text() for path in records.iterdir() if '"status": "finished"' in path.read_text()}
    _until(lambda: not _processes(str(tmp_path)), None)
    with pytest.raises(ConfigError, match="--resume continues it"):
        sweep.run(slow(tmp_path / "runs"))
    result = sweep.run(resumed(slow(tmp_path / "runs")))
    assert {name: (records / name).read_text() for name in done} == done  # no finished trial ran again
    assert len(result.trials) == 5 and all(t.status == FINISHED for t in result.trials)
    assert all(whole(t) and t.reports[-1].step == 12 for t in result.trials)
    assert values(result) == {t.number: t.values["optim.learning_rate"] for t in _undisturbed(slow(tmp_path / "other"))}
    with pytest.raises(ConfigError, match="was started with something else: seed is 0 there and 3 here"):
        sweep.run(replace(resumed(slow(tmp_path / "runs")), seed=3))


def _until(holds, driver):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline and (driver is None or driver.poll() is None)
        time.sleep(0.1)


def _count(records, status):
    return sum(json.loads(path.read_text())["status"] == status for path in records.glob("*.json"))


def _unheard(records):
    """A trial at work beyond a checkpoint, of whose reports up to there the records know less."""
    for path in records.glob("*.json"):
        trial = json.loads(path.read_text())
        log = records.parent / "trials" / f"trial-{trial['number']:03d}" / "metrics.jsonl"
        steps = len(log.read_text().splitlines()) if log.exists() else 0
        if trial["status"] == "running" and steps >= 6 and len(trial["reports"]) < 4:
            return True
    return False


def _undisturbed(config):
    """What a sweep that nobody kills would try."""
    plan = outline(config)
    points = PointSource(plan)
    return [replace(plan.baseline_trial(), number=0)] + [
        replace(points.draw(number), number=number) for number in range(1, 1 + plan.draw_count)
    ]


def _processes(mark):
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if mark in line and "pytest" not in line]


def test_guards_reject_a_trial_and_mistakes_end_a_sweep_before_it_costs_anything(tmp_path):
    result = sweep.run(config(tmp_path, guard=("score >= 1.0 * baseline",), trials=6))
    rejected = [t for t in result.trials if t.status == REJECTED]
    assert rejected and all("the baseline's" in t.why for t in rejected)
    assert all(fake_trials.gain(t.values["optim.learning_rate"]) < fake_trials.gain(1e-4) for t in rejected)
    with pytest.raises(ConfigError, match="measured on labels or pairs of the target"):
        config(tmp_path, metric=("oracle/accuracy",))
    with pytest.raises(ConfigError, match="the run logs no metric 'skore': did you mean 'score'"):
        sweep.run(config(tmp_path, name="b", metric=("skore",)))
    with pytest.raises(ConfigError, match="nothing to search"):
        sweep.run(config(tmp_path, name="c", search=()))


def test_a_dry_run_shows_the_space_its_first_trials_and_the_run_and_makes_nothing(scenes, tmp_path, capsys):
    words = (
        f"--preset pretrain-default --runs {tmp_path} --dry-run -- jobs.pretrain vit-tiny --corpus {scenes} --steps 40"
    )
    start = job.parse([*words.split(), "--validation.corpus", scenes])
    arguments.run_or_preview(start, job.run, job.preview)
    shown = json.loads(capsys.readouterr().out)
    assert shown["trials"] == {"drawn": 24, "in_all": 33} and shown["rungs"] == [0.25, 0.75]
    assert [one["kind"] for one in shown["first"]][:2] == ["baseline", "search"]
    assert shown["first"][0]["values"]["loss.temperature"] == 0.07
    assert shown["run"]["corpora"][0]["shards"] == 4 and not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"no run to sweep 'jobs.pretrane': did you mean 'jobs.pretrain'"):
        job.parse(["--preset", "pretrain-default", "--", "jobs.pretrane"])
    with pytest.raises(ConfigError, match=r"is for gamma and the rescale range.* there is: pretrain-default"):
        job.preview(replace(start.config, preset="mmpareto-default"))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (
            "jobs.pretrain vit-tiny --corpus c --learning-rate 0.5 --steps 9",
            {"optim.learning_rate": 0.0012345678901, "loss.learnable_temperature": False, "optim.max_grad_norm": None},
        ),
        (
            "jobs.classify clips --corpus c --classes a b --rescale 2 3 --method pcgrad",
            {"balance.rescale": (1.5, 3.25), "balance.method": "mmpareto", "balance.gamma": 1.75},
        ),
        (
            "jobs.adapt --corpus c --target t --start-from s --domain.strength=0.5",
            {"domain.strength": 0.0, "domain.loss": "mmd", "optim.learning_rate": 1e-05},
        ),
    ],
)
def test_the_command_that_is_printed_gives_the_trials_configuration(words, values):
    run = job.run_of(words.split())
    command = results.command_of(words.split(), run, values)
    assert command.startswith("python -m jobs.")
    assert job.run_of(command.split()[2:]) == with_values(run, values)
