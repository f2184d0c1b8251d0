"""Before, source alone, adapted and oracle beside each other on both domains; what is sealed is named so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import compare as job
from jobs import console
from pipelines.config.adapt import Config as Adaptation
from pipelines.config.compare import Config
from pipelines.config.data import Data
from pipelines.config.domain import Domain
from pipelines.config.target import Target
from pipelines.inference.evaluation_records import Evaluation
from pipelines.results import compare
from pipelines.results.compare import Comparison
from xmodal import checkpoint
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.errors import ConfigError
from xmodal.run import create_run


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketches")
    synthetic.write_corpus(str(folder), "sketch", 30, 0, start=5000, size=32)
    return str(folder)


def adapted(folder, name, start, **domain) -> str:
    """A run as jobs.adapt leaves it, whose weights are those that it started from."""
    config = Adaptation(
        name=name, runs=str(folder), start_from=checkpoint.resolve(start).uri, data=Data(corpus=("photos",)),
        target=Target(corpus=("sketches",)), domain=Domain(**domain),
    )  # fmt: skip
    run = create_run(str(folder), name, config=config)
    files = folder / f"{name}-files"
    shutil.copytree(checkpoint.resolve(start).uri, files, ignore=shutil.ignore_patterns("COMMITTED.json"))
    commit(files, run.checkpoints_uri, step=12, attempt=1, run_id=run.id)
    return run.uri


def test_the_same_weights_have_the_same_figures_in_every_part(untrained, scenes, sketches, tmp_path, capsys):
    start = str(shutil.copytree(untrained, tmp_path / "start"))  # the comparison stores its figures there
    runs = [adapted(tmp_path, f"dann-{seed}", start) for seed in range(2)]
    said = []
    result = compare.run(Config(adapted=tuple(runs), source=scenes, target=sketches), said.append)
    assert list(result.arms) == ["before", "adapted"]  # what it started from is found in the record
    assert any("no control is named" in line for line in said) and any("no oracle is named" in line for line in said)
    for domain in ("source", "target"):
        spread = result.spread("adapted", domain, "text_to_image/recall@10")
        assert spread.runs == 2 and spread.sd == 0
        assert spread.mean == result.spread("before", domain, "text_to_image/recall@10").mean
    assert result.gain("before", "target", "text_to_image/recall@10").mean == 0
    assert result.gain("control", "target", "text_to_image/recall@10") is None
    stored = json.loads(Path(result.stored).read_text())
    names = {name.partition("/")[0] for name in stored["arms"]["adapted"][0]["metrics"]}
    assert names == {"source", "oracle"} and len(stored["arms"]["adapted"]) == 2
    assert stored["adaptation"] == "dann, strength 0.3 (ramp), placement each, protocol images"
    told = job.table(result)
    assert "before" in told and "adapted (2)" in told and "target R@1" in told and "±" in told
    assert "+0.0 ± 0.0 points" in job.gains(result)


def comparison(*adapted: float, control: tuple[float, ...] = (), target: float = 0.0) -> Comparison:
    """Figures of runs whose R@10 is given; on the target it is higher by `target`."""

    def one(value: float) -> Evaluation:
        names = {"text_to_image/recall@10": value}
        return Evaluation(
            checkpoint="c", step=1, corpus="c", fingerprint="f", rows=9, skipped=0, metrics=names, interval={},
            chance=names, settings={},
        )  # fmt: skip

    arms = {
        name: {"source": [one(x) for x in values], "target": [one(x + target) for x in values]}
        for name, values in (("control", control), ("adapted", adapted))
        if values
    }
    return Comparison(adaptation="dann", arms=arms, stored="here")


def test_seeds_become_a_mean_its_spread_and_the_error_of_a_difference():
    found = comparison(0.2, 0.3, 0.4, control=(0.1, 0.1, 0.1), target=0.1)
    name = "text_to_image/recall@10"
    spread = found.spread("adapted", "target", name)
    assert (spread.mean, spread.sd, spread.runs) == (pytest.approx(0.4), pytest.approx(0.1), 3)
    gain = found.gain("control", "source", name)
    assert gain.mean == pytest.approx(0.2) and gain.sd == pytest.approx(0.1 / 3**0.5)
    assert "+20.0 ± 5.8 points" in job.gains(found)
    assert comparison(0.2).spread("adapted", "source", name).sd is None


def test_runs_that_did_different_things_are_no_seeds(untrained, scenes, sketches, tmp_path):
    runs = (adapted(tmp_path, "dann", untrained), adapted(tmp_path, "mmd", untrained, loss="mmd"))
    with pytest.raises(ConfigError, match="did different things"):
        compare.run(Config(adapted=runs, source=scenes, target=sketches))


def test_what_was_not_adapted_is_no_adapted_run(untrained, scenes, sketches, tmp_path):
    run = create_run(str(tmp_path), "plain", config={"optim": {"steps": 3}})
    config = Config(adapted=(run.uri,), source=scenes, target=sketches)
    with pytest.raises(ConfigError, match=r"is no run of jobs\.adapt clip"):
        compare.run(config)
    with pytest.raises(ConfigError, match="is named twice"):
        replace(config, control=(run.uri,))
    with pytest.raises(ConfigError, match="as the source and as the target"):
        replace(config, target=scenes)


def test_a_mistake_is_one_line_with_exit_code_2(capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        console.main(
            lambda: job.run(Config(adapted=("/no/run",), source=str(tmp_path / "photos"), target=str(tmp_path)))
        )
    assert exit.value.code == 2 and capsys.readouterr().err.count("\n") == 1
