"""What a search decides: points, rungs, guards that say why, the choice is humble."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.classifier import Classifier
from pipelines.config.classify import Config
from pipelines.config.data import Data
from xmodal.errors import ConfigError
from xmodal.metrics.model_selection import regret
from xmodal.search.choice import choose
from xmodal.search.importance import importance, samples, surface
from xmodal.search.objective import Objective, objectives, parse_guards
from xmodal.search.proposals import grid, random_units
from xmodal.search.rungs import Rungs, grace_of_ramp
from xmodal.search.space import parse_space
from xmodal.search.trial import BASELINE, FINALIST, FINISHED, SEARCH, STOPPED, Report, Trial, from_plain

BASE = Config(name="a", data=Data(corpus=("c",)), model=Classifier(classes=("a", "b")))
SPACE = parse_space(["optim.learning_rate=loguniform(1e-5,1e-1)", "optim.momentum=uniform(0,0.99)"], BASE)
BY = (Objective(metric="score"),)


def trial(number, score=None, *, share=1.0, status=FINISHED, kind=SEARCH, values=None, **more):
    reports = (
        () if score is None else (Report(step=round(100 * share), steps=100, seconds=1.0, metrics={"score": score}),)
    )
    values = values or {"optim.learning_rate": 1e-3, "optim.momentum": 0.5}
    units = SPACE.encode(values)
    return Trial(number=number, kind=kind, values=values, units=units, status=status, reports=reports, **more)


def planted(values):
    """Its optimum is a learning rate of 1e-3 with a momentum of 0.9; the momentum matters a fifth as much."""
    return -((math.log10(values["optim.learning_rate"]) + 3) ** 2) - 0.2 * (values["optim.momentum"] - 0.9) ** 2


def searched(trials):
    units = [random_units(SPACE, 0, number) for number in range(trials)]
    return [trial(k, planted(SPACE.decode(one)), values=SPACE.decode(one)) for k, one in enumerate(units)]


def test_random_points_and_a_grid_come_near_a_planted_optimum():
    assert max(one.last("score") for one in searched(60)) > -0.1
    assert max(planted(values) for values in grid(SPACE, 5)) > -0.05 and len(grid(SPACE, 5)) == 25


def test_random_points_depend_on_seed_and_number_alone():
    assert random_units(SPACE, 0, 5) == random_units(SPACE, 0, 5) != random_units(SPACE, 1, 5)
    assert random_units(SPACE, 0, 6) != random_units(SPACE, 0, 5)


def test_rungs_lie_at_shares_of_the_full_budget_and_behind_the_ramp():
    assert Rungs(grace=0.1, reduction=3).places() == pytest.approx([0.1, 0.3, 0.9])
    grace = grace_of_ramp(10.0)
    assert 2 / (1 + math.exp(-10 * grace)) - 1 == pytest.approx(0.95)
    assert grace == pytest.approx(0.366, abs=1e-3) and grace_of_ramp(0.1) == 0.9


@pytest.mark.parametrize("metric", ["oracle/accuracy", "validation/oracle/recall@10"])
def test_what_was_measured_on_the_targets_labels_chooses_nothing(metric):
    with pytest.raises(ConfigError, match="measured on labels or pairs of the target"):
        objectives([metric], ["max"])
    with pytest.raises(ConfigError, match="measured on labels or pairs of the target"):
        parse_guards([f"{metric} >= 0.5"])


def test_a_guard_rejects_with_its_reason_and_measures_a_baseline_at_the_same_place():
    (guard,) = parse_guards(["score >= 0.9 * baseline"])
    base = replace(trial(0, 0.5, share=0.5, kind=BASELINE), reports=(
        *trial(0, 0.5, share=0.5).reports, *trial(0, 1.0).reports))  # fmt: skip
    assert guard.complaint(trial(1, 0.46, share=0.5), base) is None
    assert guard.complaint(trial(1, 0.46, share=1.0), base) == "score is 0.46, not >= 0.9 (0.9 x the baseline's)"
    assert guard.complaint(trial(1), base) is None and guard.complaint(trial(1, 0.1), None) is None
    (plain,) = parse_guards(["score<2e-1"])
    assert plain.complaint(trial(1, 0.3), None) == "score is 0.3, not < 0.2"
    for wrong in ("score", "score >> 3", "score >= much", "score >= 0.9 * base"):
        with pytest.raises(ConfigError, match="METRIC SIGN NUMBER"):
            parse_guards([wrong])


def at(rate):
    return {"optim.learning_rate": rate, "optim.momentum": 0.5}


def test_within_one_standard_error_the_configuration_that_departs_least_is_chosen():
    """A learning rate departs upwards: of two that the seeds cannot tell apart, the lower one."""
    trials = [
        trial(0, 0.10, kind=BASELINE, values=at(1e-4)),
        trial(1, 0.80, values=at(1e-2)), trial(2, 0.78, values=at(1e-3)), trial(3, 0.50, values=at(1e-4)),
    ]  # fmt: skip
    alone = choose(trials, SPACE, BY[0])
    assert alone.trial == alone.best == 1 and "no spread is known" in alone.rule
    repeats = [
        trial(10 + k, score, kind=FINALIST, parent=parent, seed=k, values=values)
        for parent, values, scores in (
            (1, at(1e-2), (0.70, 0.90)),
            (2, at(1e-3), (0.77, 0.79)),
            (3, at(1e-4), (0.5, 0.5)),
        )
        for k, score in enumerate(scores)
    ]
    found = choose([*trials, *repeats], SPACE, BY[0])
    assert found.best == 1 and found.within == (1, 2) and found.trial == 2
    assert found.standings[0].error == pytest.approx(0.1 / math.sqrt(3))
    assert regret({"1": 0.8, "2": 0.78}, str(found.trial)) == pytest.approx(0.02)
    assert choose([trial(0, 0.5, status=STOPPED)], SPACE, BY[0]) is None


def test_the_field_that_matters_most_is_named_first_and_a_surface_has_its_peak_where_it_was_planted():
    found = importance(searched(60), SPACE, BY[0])
    assert [one.path for one in found] == ["optim.learning_rate", "optim.momentum"] and found[0].mean > 5 * found[
        1
    ].mean
    assert importance(searched(5), SPACE, BY[0]) == []
    units, values = samples(searched(200), SPACE, BY[0])
    cells = surface(units, values, cells=8)
    assert abs(int(cells.mean(0).argmax()) - 3.5) <= 1  # 1e-3 lies in the middle of the range


@given(st.floats(0, 1), st.integers(0, 5))
def test_a_trial_survives_its_file(score, attempts):
    import json

    one = replace(
        trial(3, score, errors=("a",), attempts=attempts, oracle={"oracle/a": 1.0}), values={"a": (1.0, 2.0), "b": None}
    )
    assert from_plain(json.loads(json.dumps(one.plain()))) == one
