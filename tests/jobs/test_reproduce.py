"""Experiments: what is concluded from planted trials, what the arms train, and a small one from end to end."""

import io
import json
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
from jobs.reproduce.adaptation.hypotheses import PREDICTIONS as OF_ADAPTATION
from jobs.reproduce.arms import ARMS, chosen
from jobs.reproduce.data import splits
from jobs.reproduce.hypotheses import OF_MODALITIES, OF_TASKS, PREDICTIONS, findings
from jobs.reproduce.row_batches import Rows
from jobs.reproduce.summary import page
from jobs.reproduce.trial_processes import ended
from support.clip_batches import classifier
from xmodal.errors import ConfigError
from xmodal.gradients import WEIGHTINGS, ParameterSpace
from xmodal.training.balance_options import Balance, Method
from xmodal.training.balanced_learning import balanced

NOISE = (-0.01, 0.0, 0.01)


def trials(score: str = "multimodal", **means: float) -> dict:
    """Three seeds an arm, the same noise for all arms; conflicts in the first epoch only."""
    conflict = [{"grey": 0.5, "colour": 0.1}, {"grey": 0.01, "colour": 0.0}]
    return {
        arm.replace("_", "-"): [
            {"seed": seed, "test": {score: mean + NOISE[seed]}, "conflict": conflict} for seed in range(3)
        ]
        for arm, mean in means.items()
    }


def verdicts(**means: float) -> list[bool | None]:
    return [finding.held for finding in findings(trials(**means), OF_MODALITIES, "multimodal")]


def test_predictions_are_judged_by_the_trials() -> None:
    common = {"joint": 0.6, "uniform": 0.7, "mmpareto_per_tensor": 0.7}
    held = verdicts(**common, uniform_gamma=0.73, mmpareto=0.74, mmpareto_features=0.74,
                    uniform_adamw=0.8, mmpareto_adamw=0.8)  # fmt: skip
    assert held == [True] * 6
    refuted = verdicts(joint=0.69, uniform=0.7, uniform_gamma=0.71, mmpareto=0.75, mmpareto_per_tensor=0.8,
                       mmpareto_features=0.7, uniform_adamw=0.7, mmpareto_adamw=0.8)  # fmt: skip
    assert refuted == [False, False, False, True, False, False]


def test_what_lies_within_its_standard_error_is_not_concluded() -> None:
    """The gains of the second step scatter by twice as much as the steps differ."""
    planted = trials(joint=0.6, uniform=0.7, uniform_gamma=0.75, mmpareto=0.79)
    for one, shift in zip(planted["mmpareto"], (-0.04, 0.0, 0.04), strict=True):
        one["test"]["multimodal"] += shift
    first, second, *_ = findings(planted, OF_MODALITIES, "multimodal")
    assert (first.held, first.verdict) == (None, "undecided") and "+10.0 ± 0.0, then +9.0 ± 2.3" in first.evidence
    assert (second.held, second.verdict) == (None, "undecided")


def test_what_was_not_run_is_not_concluded() -> None:
    assert verdicts(joint=0.6, uniform=0.7) == [None] * 6
    found = findings({}, [*PREDICTIONS], "multimodal")
    assert {finding.verdict for finding in found} == {"not tested"} and len(found) == len(PREDICTIONS)


def test_the_harder_task_decides_what_sharing_costs_and_what_mmpareto_gives_back() -> None:
    for hard, held in (
        ({"uniform_gamma": 0.7, "mmpareto": 0.75}, True),
        ({"uniform_gamma": 0.75, "mmpareto": 0.7}, False),
    ):
        planted = trials("hard", uniform=0.7, **{"hard-alone": 0.8 if held else 0.6}, **hard)
        found = findings(planted, OF_TASKS, "average")
        assert [finding.held for finding in found[:2]] == [held, held]


def test_conflicts_after_the_first_epoch_refute_their_rarity() -> None:
    planted = trials(mmpareto=0.7)
    planted["mmpareto"][0]["conflict"] = [{"grey": 0.0, "colour": 0.0}, {"grey": 0.5, "colour": 0.0}]
    finding = findings(planted, ["few-conflicts"], "multimodal")[0]
    assert finding.held is False and "grey 17.3%" in finding.evidence


def test_an_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    data = Rows({"x": torch.arange(64)})
    epochs = [torch.cat([batch.row for batch in data.batches(16, 0, epoch)]) for epoch in (0, 1, 0)]
    assert epochs[0].tolist() != epochs[1].tolist() and torch.equal(epochs[0], epochs[2])
    assert all(epoch.sort().values.tolist() == list(range(64)) for epoch in epochs)
    assert torch.equal(torch.cat([batch.fields["x"] for batch in data.parts(10)]), torch.arange(64))


def test_the_methods_that_can_be_asked_for_are_the_weightings_and_joint() -> None:
    assert set(get_args(Method)) == {"joint", *WEIGHTINGS}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_can_be_built(arm: str) -> None:
    objective, space = balanced(ARMS[arm].balance, classifier())
    method, where = ARMS[arm].balance.method, ARMS[arm].balance.space
    assert isinstance(space, ParameterSpace) == (where == "parameters")
    assert (objective.splitter is not None) == (where == "features" and method != "joint")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Balance(method="mmpareto_per_tensor"), "needs space=parameters"),
        (lambda: Balance(method="pcgrad", gamma=2.0), "pcgrad has no gamma"),
        (lambda: Balance(gamma=0.0), "gamma=0.0 must be positive"),
        (lambda: Balance(rescale=(2.0, 1.0)), r"rescale=\(2.0, 1.0\) must be"),
        (lambda: chosen(["unifrom"], ARMS), "no arm 'unifrom'; did you mean 'uniform'"),
        (lambda: job.Config(name="cg-mnist", seeds=(1, 1)), "each once"),
        (lambda: job.Config(name="cg-mnist", epochs=0), "epochs=0 must be above 0"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_experiment_has_a_line_a_place_and_predictions_that_exist() -> None:
    assert set(get_args(catalogue.Name)) == set(catalogue.SUMMARIES)
    for name in catalogue.SUMMARIES:
        found = catalogue.experiment(name)
        assert set(found.predictions) <= {*PREDICTIONS, *OF_ADAPTATION} and found.arms and name in catalogue.listing()


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of the layout of MNIST: a class is a bright row."""
    monkeypatch.setattr(digits, "VALIDATION", 20)
    (tmp_path / "digits").mkdir()
    for split, count in (("train", 84), ("test", 20)):
        rows = []
        for i in range(count):
            picture = np.zeros((28, 28), np.uint8)
            picture[2 * (i % 10) : 2 * (i % 10) + 3] = 255
            out = io.BytesIO()
            Image.fromarray(picture).save(out, "PNG")
            rows.append({"image": {"bytes": out.getvalue(), "path": None}, "label": i % 10})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "digits" / f"mnist_{split}.parquet")
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(tmp_path))
    splits.cache_clear()
    return tmp_path


def test_an_experiment_from_end_to_end_goes_on_where_it_stopped(mnist: Path, capsys: pytest.CaptureFixture) -> None:
    to = mnist / "results"
    common = {"name": "cg-mnist", "rows": 64, "epochs": 2, "batch_size": 16, "processes": 1, "to": str(to)}
    job.run(job.Config(arms=("uniform", "mmpareto"), seeds=(0,), **common))
    first = json.loads((to / "results.json").read_text())["trials"]
    assert set(first) == {"uniform/0", "mmpareto/0"} and first["mmpareto/0"]["steps"] == 8
    assert set(first["uniform/0"]["test"]) == {"multimodal", "grey", "colour", "ensemble"}
    assert set(first["uniform/0"]["probe"]) == {"grey", "colour"} and len(list(to.glob("data-*"))) == 1
    capsys.readouterr()
    job.run(job.Config(arms=("uniform", "mmpareto", "joint"), seeds=(0,), **common))
    told = capsys.readouterr().out
    assert "2 trials are there, 1 to go" in told and "[1/1] joint, seed 0" in told
    again = json.loads((to / "results.json").read_text())["trials"]
    assert again["uniform/0"] == first["uniform/0"] and set(again["joint/0"]["test"]) == {"multimodal"}
    shown = (to / "index.html").read_text()
    assert (
        "CG-MNIST" in shown
        and shown.count("<svg") >= 3
        and "Gradients and minima" in shown
        and "uniform" in shown
        and "not tested" in shown
    )
    with pytest.raises(ConfigError, match="repeat these, or give another folder"):
        job.run(job.Config(seeds=(0,), **{**common, "epochs": 3}))


def test_a_dry_run_says_what_is_missing_and_trains_nothing(mnist: Path, capsys: pytest.CaptureFixture) -> None:
    to = mnist / "dry"
    start = job.parse(["multi-mnist", "--seeds", "3", "--epochs", "2", "--to", str(to), "--dry-run"])
    told = job.preview(start.config)
    assert start.dry_run and told["missing"] == told["trials"] == len(told["arms"]) and told["seeds"] == [3]
    assert told["settings"]["epochs"] == 2 and not to.exists()


def test_a_trial_gives_the_same_figures_in_a_process_of_its_own(mnist: Path) -> None:
    to = str(mnist / "same")
    config = job.Config(name="cg-mnist", rows=64, epochs=1, batch_size=16, processes=1, to=to)
    asked = (config.name, config.settings(), config.place, [("mmpareto-features", 3)])
    [(_, _, first)], [(_, _, second)] = (list(ended(*asked, processes)) for processes in (1, 2))
    assert first["test"] == second["test"] and first["conflict"] == second["conflict"]


def test_tasks_go_the_same_way(mnist: Path) -> None:
    to = mnist / "tasks"
    config = job.Config(
        name="multi-mnist", rows=64, epochs=1, batch_size=16, processes=1, to=str(to), seeds=(0,),
        arms=("hard-alone", "uniform", "mmpareto", "mmpareto-features"),
    )  # fmt: skip
    job.run(config)
    found = json.loads((to / "results.json").read_text())["trials"]
    assert set(found["hard-alone/0"]["test"]) == {"hard"}
    for arm in ("uniform/0", "mmpareto/0"):
        test = found[arm]["test"]
        assert test["average"] == pytest.approx((test["easy"] + test["hard"]) / 2)
        assert set(found[arm]["conflict"][0]) == {"shared"}
    assert "hard-alone" in (to / "index.html").read_text()


def test_a_page_has_the_floors_above_the_arms() -> None:
    letter = catalogue.experiment("grid-letter")
    made = page(letter, letter.settings, {})
    assert made.tables[0].rows[0][0] == "ridge" and made.tables[0].rows[0][2][:2] == ["86.5", "90.5"]
    assert len(made.tables[0].rows[0][2]) == len(made.tables[0].columns)
