"""Tests of comparing adapted runs with their controls on both domains; target metrics are stored as oracle metrics."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import compare as job
from jobs import console
from pipelines.config.adapt import AdaptConfig
from pipelines.config.compare import CompareConfig
from pipelines.config.data import DataConfig
from pipelines.config.domain import DomainConfig
from pipelines.config.run import RunOptions
from pipelines.config.target import TargetConfig
from pipelines.inference.evaluation_records import Evaluation
from pipelines.results import compare
from pipelines.results.compare import Comparison
from xmodal import checkpoint
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run import create_run
from xmodal.run.comparison_record import ARM_LABELS, parse_comparison


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketches")
    synthetic.write_corpus(str(folder), "sketch", 30, 0, start=5000, size=32)
    return str(folder)


def adapted_run(folder, name, start, *, consistency=0.0, **domain) -> str:
    """Create a run of jobs.adapt with the weights that it started from; return its URI."""
    config = AdaptConfig(
        run=RunOptions(name=name, runs=str(folder)), start_from=checkpoint.resolve(start).uri,
        data=DataConfig(corpus=("photos",)), target=TargetConfig(corpus=("sketches",), consistency=consistency),
        domain=DomainConfig(**domain),
    )  # fmt: skip
    run = create_run(str(folder), name, config=config)
    files = folder / f"{name}-files"
    shutil.copytree(checkpoint.resolve(start).uri, files, ignore=shutil.ignore_patterns("COMMITTED.json"))
    commit(files, run.checkpoints_uri, step=12, attempt=1, run_id=run.id)
    return run.uri


def test_equal_weights_have_equal_metrics_in_every_arm(untrained, scenes, sketches, tmp_path, capsys):
    start = str(shutil.copytree(untrained, tmp_path / "start"))  # the comparison stores its evaluations there
    runs = [adapted_run(tmp_path, f"dann-{seed}", start) for seed in range(2)]
    notices = []
    result = compare.run(CompareConfig(adapted=tuple(runs), source=scenes, target=sketches), notices.append)
    assert list(result.arms) == ["before", "adapted"]  # what it started from is found in the record
    assert any("no control is named" in line for line in notices)
    assert any("no oracle is named" in line for line in notices)
    for domain in ("source", "target"):
        spread = result.mean_sd("adapted", domain, "text_to_image/recall@10")
        assert spread.runs == 2 and spread.sd == 0
        assert spread.mean == result.mean_sd("before", domain, "text_to_image/recall@10").mean
    assert result.improvement("before", "target", "text_to_image/recall@10").mean == 0
    assert result.improvement("control", "target", "text_to_image/recall@10") is None
    stored = json.loads(Path(result.result_uri).read_text())
    names = {name.partition("/")[0] for name in stored["arms"]["adapted"][0]["metrics"]}
    assert names == {"source", "oracle"} and len(stored["arms"]["adapted"]) == 2
    assert stored["adaptation"] == "dann, strength 0.3 (ramp), placement each, protocol images"
    table = job.table(result)
    assert "before" in table and "adapted (2)" in table and "target R@1" in table and "±" in table
    assert "+0.0 ± 0.0 points" in job.improvements(result)


def test_centred_embeddings_are_an_arm_after_the_control(untrained, scenes, sketches, tmp_path):
    start = str(shutil.copytree(untrained, tmp_path / "start"))
    control = adapted_run(tmp_path, "control", start, loss="none")
    adapted = adapted_run(tmp_path, "mmd", start, loss="mmd")
    result = compare.run(
        CompareConfig(
            adapted=(adapted,), before=(start,), control=(control,), source=scenes, target=sketches, centre=True,
            label="json:scene.background",
        )
    )  # fmt: skip
    assert list(result.arms) == ["before", "control", "centred", "adapted"]
    name = "text_to_image/recall@10"
    centred = result.mean_sd("centred", "target", name)
    assert centred != result.mean_sd("control", "target", name)
    assert result.mean_sd("centred", "target", "zero_shot/accuracy") is None  # prompts have no mean over the corpus
    for arm in result.arms:
        assert f"\n  {ARM_LABELS[arm]}" in job.bars(result)
    record = parse_comparison(json.loads(Path(result.result_uri).read_text()))
    assert record.mean_sd("centred", f"oracle/{name}") == (centred.mean, None)
    assert record.rows == {"source": 240, "oracle": 30} and record.chance[f"oracle/{name}"] == pytest.approx(1 / 3)
    stored = [json.loads(path.read_text())["metrics"][name] for path in Path(control, "evaluations").iterdir()]
    assert sorted(stored) == sorted(result.mean_sd("control", domain, name).mean for domain in ("source", "target"))


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (("before", "control", "adapted"), ["before", "control", "centred", "adapted"]),
        (("before", "adapted"), ["before", "centred", "adapted"]),
        (("adapted",), ["adapted"]),
    ],
)
def test_the_centred_arm_repeats_the_control_or_else_the_model_before(arms, expected):
    assert list(compare.add_centred_arm({arm: (arm,) for arm in arms})) == expected


def test_the_longest_bar_is_that_of_the_best_arm():
    lines = job.bars(comparison(0.4, control=(0.1,))).splitlines()
    lengths = {line.split()[0]: line.count("\u2588") for line in lines[1:]}
    assert lines[0].startswith("text -> image R@10 (chance") and lengths == {"further": 8, "adapted": 32}
    assert job.bars(comparison(0.0)).splitlines()[1].endswith("0.0%")  # no bar, and no division by zero


def comparison(*adapted: float, control: tuple[float, ...] = (), target: float = 0.0) -> Comparison:
    """Return a comparison of runs with the given R@10 on the source; on the target it is higher by `target`."""

    def evaluation(value: float) -> Evaluation:
        metrics = {"text_to_image/recall@10": value}
        return Evaluation(
            checkpoint="c", step=1, corpus="c", fingerprint="f", rows=9, skipped=0, metrics=metrics, interval={},
            chance=metrics, settings={},
        )  # fmt: skip

    arms = {
        name: {"source": [evaluation(x) for x in values], "target": [evaluation(x + target) for x in values]}
        for name, values in (("control", control), ("adapted", adapted))
        if values
    }
    return Comparison(adaptation="dann", arms=arms, result_uri="here")


def test_seeds_give_mean_sd_and_the_standard_error_of_a_difference():
    result = comparison(0.2, 0.3, 0.4, control=(0.1, 0.1, 0.1), target=0.1)
    name = "text_to_image/recall@10"
    spread = result.mean_sd("adapted", "target", name)
    assert (spread.mean, spread.sd, spread.runs) == (pytest.approx(0.4), pytest.approx(0.1), 3)
    improvement = result.improvement("control", "source", name)
    assert improvement.mean == pytest.approx(0.2) and improvement.sd == pytest.approx(0.1 / 3**0.5)
    assert "+20.0 ± 5.8 points" in job.improvements(result)
    assert comparison(0.2).mean_sd("adapted", "source", name).sd is None


def test_runs_with_different_adaptations_are_refused_as_seeds(untrained, scenes, sketches, tmp_path):
    runs = (adapted_run(tmp_path, "dann", untrained), adapted_run(tmp_path, "mmd", untrained, loss="mmd"))
    with pytest.raises(ConfigError, match="differ in their adaptation"):
        compare.run(CompareConfig(adapted=runs, source=scenes, target=sketches))
    other_target_loss = (runs[0], adapted_run(tmp_path, "views", untrained, consistency=0.3))
    with pytest.raises(ConfigError, match=r"differ in their adaptation .*protocol images, consistency 0\.3"):
        compare.run(CompareConfig(adapted=other_target_loss, source=scenes, target=sketches))


def test_a_run_without_adaptation_is_refused_as_adapted(untrained, scenes, sketches, tmp_path):
    run = create_run(str(tmp_path), "plain", config={"optim": {"steps": 3}})
    config = CompareConfig(adapted=(run.uri,), source=scenes, target=sketches)
    with pytest.raises(ConfigError, match=r"is not a run of jobs\.adapt:"):
        compare.run(config)
    with pytest.raises(ConfigError, match="is named twice"):
        replace(config, control=(run.uri,))
    with pytest.raises(ConfigError, match="as the source and as the target"):
        replace(config, target=scenes)


def test_a_mistake_is_one_line_with_exit_code_2(capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        console.main(
            lambda: job.run(CompareConfig(adapted=("/no/run",), source=str(tmp_path / "photos"), target=str(tmp_path)))
        )
    assert exit.value.code == 2 and capsys.readouterr().err.count("\n") == 1
