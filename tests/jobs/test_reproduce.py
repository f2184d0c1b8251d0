"""Experiments on balanced learning: predictions checked on made-up trials, the arms, and small ones end to end."""

import io
import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.reproduce import __main__ as job
from jobs.reproduce import catalogue, digits
from jobs.reproduce.adaptation.hypotheses import PREDICTIONS as ADAPTATION_PREDICTIONS
from jobs.reproduce.arms import ARMS, arms_by_name
from jobs.reproduce.data import load_splits
from jobs.reproduce.hypotheses import MODALITY_PREDICTIONS, PREDICTIONS, TASK_PREDICTIONS, check_predictions
from jobs.reproduce.row_batches import RowDataset
from jobs.reproduce.summary import build_page
from jobs.reproduce.trial_processes import run_trials
from support.clip_batches import classifier
from xmodal.errors import ConfigError
from xmodal.gradients import WEIGHTINGS, ParameterSpace
from xmodal.training.balance_options import GradientBalance, Method
from xmodal.training.balanced_learning import build_objective

NOISE = (-0.01, 0.0, 0.01)
SMALL = {"processes": 1, "allow_other_data": True}


def make_trials(score: str = "multimodal", **means: float) -> dict:
    """Return results of three seeds for each arm, with the same noise for all, and conflicts in the first epoch."""
    conflict = [{"grey": 0.5, "colour": 0.1}, {"grey": 0.01, "colour": 0.0}]
    return {
        arm.replace("_", "-"): [
            {"seed": seed, "test": {score: mean + NOISE[seed]}, "conflict": conflict} for seed in range(3)
        ]
        for arm, mean in means.items()
    }


def outcomes(**means: float) -> list[bool | None]:
    results = check_predictions(make_trials(**means), MODALITY_PREDICTIONS, "multimodal")
    return [result.confirmed for result in results]


def test_predictions_follow_from_the_trials() -> None:
    common = {"joint": 0.6, "uniform": 0.7, "mmpareto_per_tensor": 0.7}
    confirmed = outcomes(**common, uniform_gamma=0.73, mmpareto=0.74, mmpareto_features=0.74,
                         uniform_adamw=0.8, mmpareto_adamw=0.8)  # fmt: skip
    assert confirmed == [True] * 6
    refuted = outcomes(joint=0.69, uniform=0.7, uniform_gamma=0.71, mmpareto=0.75, mmpareto_per_tensor=0.8,
                       mmpareto_features=0.7, uniform_adamw=0.7, mmpareto_adamw=0.8)  # fmt: skip
    assert refuted == [False, False, False, True, False, False]


def test_a_difference_within_its_standard_error_leaves_a_prediction_undecided() -> None:
    """The second gain scatters over the seeds by twice the difference of both gains."""
    three_seeds = make_trials(joint=0.6, uniform=0.7, uniform_gamma=0.75, mmpareto=0.79)
    for trial, shift in zip(three_seeds["mmpareto"], (-0.04, 0.0, 0.04), strict=True):
        trial["test"]["multimodal"] += shift
    first, second, *_ = check_predictions(three_seeds, MODALITY_PREDICTIONS, "multimodal")
    assert (first.confirmed, first.outcome) == (None, "undecided") and "+10.0 ± 0.0, then +9.0 ± 2.3" in first.evidence
    assert (second.confirmed, second.outcome) == (None, "undecided")


def test_predictions_without_their_arms_are_not_tested() -> None:
    assert outcomes(joint=0.6, uniform=0.7) == [None] * 6
    results = check_predictions({}, [*PREDICTIONS], "multimodal")
    assert {finding.outcome for finding in results} == {"not tested"} and len(results) == len(PREDICTIONS)


def test_the_harder_task_decides_the_cost_of_sharing_and_the_gain_of_mmpareto() -> None:
    for hard, expected in (
        ({"uniform_gamma": 0.7, "mmpareto": 0.75}, True),
        ({"uniform_gamma": 0.75, "mmpareto": 0.7}, False),
    ):
        three_seeds = make_trials("hard", uniform=0.7, **{"hard-alone": 0.8 if expected else 0.6}, **hard)
        results = check_predictions(three_seeds, TASK_PREDICTIONS, "average")
        assert [finding.confirmed for finding in results[:2]] == [expected, expected]


def test_conflicts_after_the_first_epoch_refute_the_prediction_that_they_are_rare() -> None:
    three_seeds = make_trials(mmpareto=0.7)
    three_seeds["mmpareto"][0]["conflict"] = [{"grey": 0.0, "colour": 0.0}, {"grey": 0.5, "colour": 0.0}]
    finding = check_predictions(three_seeds, ["few-conflicts"], "multimodal")[0]
    assert finding.confirmed is False and "grey 17.3%" in finding.evidence


def test_every_epoch_has_every_row_once_in_another_order() -> None:
    data = RowDataset({"x": torch.arange(64)})
    epochs = [torch.cat([batch.row for batch in data.batches(16, 0, epoch)]) for epoch in (0, 1, 0)]
    assert epochs[0].tolist() != epochs[1].tolist() and torch.equal(epochs[0], epochs[2])
    assert all(epoch.sort().values.tolist() == list(range(64)) for epoch in epochs)
    assert torch.equal(torch.cat([batch.fields["x"] for batch in data.ordered_batches(10)]), torch.arange(64))


def test_the_selectable_methods_are_the_weightings_and_joint() -> None:
    assert set(get_args(Method)) == {"joint", *WEIGHTINGS}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_can_be_built(arm: str) -> None:
    objective, parameter_space = build_objective(ARMS[arm].balance, classifier())
    method, space_name = ARMS[arm].balance.method, ARMS[arm].balance.space
    assert isinstance(parameter_space, ParameterSpace) == (space_name == "parameters")
    assert (objective.splitter is not None) == (space_name == "features" and method != "joint")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientBalance(method="mmpareto_per_tensor"), "needs space=parameters"),
        (lambda: GradientBalance(method="pcgrad", gamma=2.0), "pcgrad has no gamma"),
        (lambda: GradientBalance(gamma=0.0), "gamma=0.0 must be positive"),
        (lambda: GradientBalance(rescale=(2.0, 1.0)), r"rescale=\(2.0, 1.0\) must be"),
        (lambda: arms_by_name(["unifrom"], ARMS), "no arm 'unifrom'; did you mean 'uniform'"),
        (lambda: job.ReproduceConfig(name="cg-mnist", seeds=(1, 1)), "each once"),
        (lambda: job.ReproduceConfig(name="cg-mnist", epochs=0), "epochs=0 must be above 0"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_experiment_has_a_summary_data_files_arms_and_known_predictions() -> None:
    assert set(get_args(catalogue.ExperimentName)) == set(catalogue.ENTRIES)
    for name, entry in catalogue.ENTRIES.items():
        experiment = catalogue.load_experiment(name)
        assert set(experiment.predictions) <= {*PREDICTIONS, *ADAPTATION_PREDICTIONS} and experiment.arms
        assert re.search(rf"^  {name} +\S.{{20,}}", catalogue.list_experiments(), re.MULTILINE) and entry.needs


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write files of MNIST's layout, in which a class is a bright row."""
    monkeypatch.setattr(digits, "VALIDATION_ROWS", 20)
    (tmp_path / "digits").mkdir()
    for split, count in (("train", 84), ("test", 20)):
        rows = []
        for i in range(count):
            image = np.zeros((28, 28), np.uint8)
            image[2 * (i % 10) : 2 * (i % 10) + 3] = 255
            out = io.BytesIO()
            Image.fromarray(image).save(out, "PNG")
            rows.append({"image": {"bytes": out.getvalue(), "path": None}, "label": i % 10})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "digits" / f"mnist_{split}.parquet")
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(tmp_path))
    load_splits.cache_clear()
    return tmp_path


def test_an_experiment_end_to_end_continues_where_it_stopped(mnist: Path, capsys: pytest.CaptureFixture) -> None:
    to = mnist / "results"
    common = {"name": "cg-mnist", "rows": 64, "epochs": 2, "batch_size": 16, "to": str(to), **SMALL}
    job.run(job.ReproduceConfig(arms=("uniform", "mmpareto"), seeds=(0,), **common))
    first = json.loads((to / "results.json").read_text())["trials"]
    assert set(first) == {"uniform/0", "mmpareto/0"} and first["mmpareto/0"]["steps"] == 8
    assert set(first["uniform/0"]["test"]) == {"multimodal", "grey", "colour", "ensemble"}
    assert set(first["uniform/0"]["probe"]) == {"grey", "colour"} and len(list(to.glob("data-*"))) == 1
    capsys.readouterr()
    job.run(job.ReproduceConfig(arms=("uniform", "mmpareto", "joint"), seeds=(0,), **common))
    printed = capsys.readouterr().out
    assert "2 trials are there, 1 to go" in printed and "[1/1] joint, seed 0" in printed
    again = json.loads((to / "results.json").read_text())["trials"]
    assert again["uniform/0"] == first["uniform/0"] and set(again["joint/0"]["test"]) == {"multimodal"}
    page = (to / "index.html").read_text()
    assert (
        "CG-MNIST" in page
        and page.count("<svg") >= 3
        and "Gradients and minima" in page
        and "uniform" in page
        and "not tested" in page
    )
    with pytest.raises(ConfigError, match="repeat these, or give another folder"):
        job.run(job.ReproduceConfig(seeds=(0,), **{**common, "epochs": 3}))


def test_a_dry_run_reports_missing_trials_and_trains_nothing(mnist: Path, capsys: pytest.CaptureFixture) -> None:
    to = mnist / "dry"
    request = job.parse(["multi-mnist", "--seeds", "3", "--epochs", "2", "--to", str(to), "--dry-run"])
    preview = job.preview(request.config)
    assert request.dry_run and preview["missing"] == preview["trials"] == len(preview["arms"])
    assert preview["settings"]["epochs"] == 2 and preview["seeds"] == [3] and not to.exists()
    assert preview["data"]["folder"] == str(mnist) and set(preview["data"]["files"].values()) == {"differs"}


def test_a_trial_yields_the_same_results_in_another_process(mnist: Path) -> None:
    to = str(mnist / "same")
    config = job.ReproduceConfig(name="cg-mnist", rows=64, epochs=1, batch_size=16, processes=1, to=to)
    arguments = (config.name, config.settings(), to, mnist, [("mmpareto-features", 3)])
    [(_, _, first)], [(_, _, second)] = (list(run_trials(*arguments, processes)) for processes in (1, 2))
    assert first["test"] == second["test"] and first["conflict"] == second["conflict"]


def test_an_experiment_with_several_tasks_end_to_end(mnist: Path) -> None:
    to = mnist / "tasks"
    config = job.ReproduceConfig(
        name="multi-mnist", rows=64, epochs=1, batch_size=16, to=str(to), seeds=(0,),
        arms=("hard-alone", "uniform", "mmpareto", "mmpareto-features"), **SMALL,
    )  # fmt: skip
    job.run(config)
    trials = json.loads((to / "results.json").read_text())["trials"]
    assert set(trials["hard-alone/0"]["test"]) == {"hard"}
    for arm in ("uniform/0", "mmpareto/0"):
        test = trials[arm]["test"]
        assert test["average"] == pytest.approx((test["easy"] + test["hard"]) / 2)
        assert set(trials[arm]["conflict"][0]) == {"shared"}
    assert "hard-alone" in (to / "index.html").read_text()


def test_the_results_table_begins_with_the_reference_results() -> None:
    letter = catalogue.load_experiment("grid-letter")
    page = build_page(letter, letter.settings, {})
    assert page.tables[0].rows[0][0] == "ridge" and page.tables[0].rows[0][2][:2] == ["86.5", "90.5"]
    assert len(page.tables[0].rows[0][2]) == len(page.tables[0].columns)
