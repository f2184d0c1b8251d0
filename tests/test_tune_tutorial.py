"""The tutorial on a Tuner of one's own runs as it stands, and its trials are runs that Tune can restore."""

import re
from pathlib import Path

import pytest
from ray import tune

from jobs import classify, pretrain
from pipelines.sweep import interval, xmodal_trainable
from pipelines.sweep.trainable import XmodalTrainable, plain_values
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run import read_metrics

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorials" / "tune.md"


@pytest.mark.ray
def test_the_tutorial_runs_and_a_restored_tuner_repeats_no_finished_trial(ray_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.write_corpus("runs/tune-corpus", "photo", 240, 0, size=32)
    (code,) = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    scope = {"storage_path": str(tmp_path / "tune")}
    exec(compile(code, str(TUTORIAL), "exec"), scope)
    results, base = scope["results"], scope["base"]
    assert len(results) == 3 and not results.errors
    assert all(Path(result.metrics["run"]).parent == tmp_path / "runs" for result in results)
    best = results.get_best_result()
    assert best.metrics["budget"] == 100 and read_metrics(best.metrics["run"])[-1]["step"] == 30
    assert best.metrics["loss"] == pytest.approx(read_metrics(best.metrics["run"])[-1]["loss"])
    attempts = sorted(tmp_path.glob("runs/tuned-*/attempts/*"))
    again = tune.Tuner.restore(
        str(tmp_path / "tune" / "tuned"), trainable=xmodal_trainable("jobs.pretrain", base, concurrent=1)
    ).fit()
    assert again.get_best_result().metrics["run"] == best.metrics["run"]
    assert sorted(tmp_path.glob("runs/tuned-*/attempts/*")) == attempts


def test_a_configuration_of_another_job_or_an_unknown_field_is_one_sentence(tmp_path):
    base = pretrain.parse(["vit-tiny", "--corpus", str(tmp_path), "--runs", str(tmp_path)])
    with pytest.raises(ConfigError, match=r"no job 'jobs.pretrian' to search: did you mean 'jobs.pretrain'"):
        xmodal_trainable("jobs.pretrian", base)
    with pytest.raises(ConfigError, match=r"a configuration of jobs.pretrain, not of jobs.adapt"):
        xmodal_trainable("jobs.adapt", base)
    with pytest.raises(ConfigError, match=r"optim.learning_rat"):
        XmodalTrainable.configure(base, {"optim.learning_rat": 1e-3})
    with pytest.raises(ConfigError, match="needs low < high"):
        interval(3, 1)


def test_an_interval_becomes_a_pair_of_the_configuration(tmp_path):
    words = ["clips", "--corpus", str(tmp_path), "--classes", "a", "b", "--method", "mmpareto"]
    base = classify.parse(words)
    drawn = {name: value.sample() if hasattr(value, "sample") else value for name, value in interval(1, 4).items()}
    values = plain_values({"balance": {"rescale": drawn}, "optim.learning_rate": 1e-3})
    changed = XmodalTrainable.configure(base, values)
    low, high = changed.balance.rescale
    assert 1 <= low <= high <= 4 and changed.optim.learning_rate == 1e-3
