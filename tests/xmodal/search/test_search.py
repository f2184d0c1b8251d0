"""Search decisions: suggested points, rungs, guards with reasons, and the one-standard-error choice."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.classifier import ClassifierConfig
from pipelines.config.classify import ClassifyConfig
from pipelines.config.data import DataConfig
from pipelines.config.run import RunOptions
from xmodal.errors import ConfigError
from xmodal.metrics.model_selection import regret
from xmodal.search.choice import choose
from xmodal.search.importance import importance, samples, surface
from xmodal.search.objective import SearchObjective, objectives, parse_guards
from xmodal.search.rungs import Rungs, grace_of_ramp
from xmodal.search.space import parse_space
from xmodal.search.trial import BASELINE, FINALIST, FINISHED, SEARCH, STOPPED, Trial, TrialReport, trial_from_plain

BASE = ClassifyConfig(
    run=RunOptions(name="a"), data=DataConfig(corpus=("c",)), model=ClassifierConfig(classes=("a", "b"))
)
SPACE = parse_space(["optim.learning_rate=loguniform(1e-5,1e-1)", "optim.momentum=uniform(0,0.99)"], BASE)
BY = (SearchObjective(metric="score"),)


def trial(number, score=None, *, share=1.0, status=FINISHED, kind=SEARCH, values=None, **more):
    reports = (
        ()
        if score is None
        else (TrialReport(step=round(100 * share), steps=100, seconds=1.0, metrics={"score": score}),)
    )
    values = values or {"optim.learning_rate": 1e-3, "optim.momentum": 0.5}
    units = SPACE.encode(values)
    return Trial(number=number, kind=kind, values=values, units=units, status=status, reports=reports, **more)


def toy_score(values):
    """Return a score with its optimum at learning rate 1e-3 and momentum 0.9; momentum matters a fifth as much."""
    return -((math.log10(values["optim.learning_rate"]) + 3) ** 2) - 0.2 * (values["optim.momentum"] - 0.9) ** 2


def random_trials(trials):
    units = [tuple(np.random.default_rng([0, number]).random(SPACE.size).tolist()) for number in range(trials)]
    return [trial(k, toy_score(SPACE.decode(point)), values=SPACE.decode(point)) for k, point in enumerate(units)]


def test_rungs_are_shares_of_the_budget_after_the_ramp():
    assert Rungs(grace=0.1, reduction=3).budget_shares() == pytest.approx([0.1, 0.3, 0.9])
    grace = grace_of_ramp(10.0)
    assert 2 / (1 + math.exp(-10 * grace)) - 1 == pytest.approx(0.95)
    assert grace == pytest.approx(0.366, abs=1e-3) and grace_of_ramp(0.1) == 0.9


@pytest.mark.parametrize("metric", ["oracle/accuracy", "validation/oracle/recall@10"])
def test_metrics_on_target_labels_are_rejected(metric):
    with pytest.raises(ConfigError, match="measured on labels or pairs of the target"):
        objectives([metric], ["max"])
    with pytest.raises(ConfigError, match="measured on labels or pairs of the target"):
        parse_guards([f"{metric} >= 0.5"])


def test_guard_compares_with_the_baseline_at_the_same_share_of_the_budget():
    (guard,) = parse_guards(["score >= 0.9 * baseline"])
    base = replace(trial(0, 0.5, share=0.5, kind=BASELINE), reports=(
        *trial(0, 0.5, share=0.5).reports, *trial(0, 1.0).reports))  # fmt: skip
    assert guard.violation(trial(1, 0.46, share=0.5), base) is None
    assert guard.violation(trial(1, 0.46, share=1.0), base) == "score is 0.46, not >= 0.9 (0.9 x the baseline's)"
    assert guard.violation(trial(1), base) is None and guard.violation(trial(1, 0.1), None) is None
    (plain,) = parse_guards(["score<2e-1"])
    assert plain.violation(trial(1, 0.3), None) == "score is 0.3, not < 0.2"
    for wrong in ("score", "score >> 3", "score >= much", "score >= 0.9 * base"):
        with pytest.raises(ConfigError, match="METRIC SIGN NUMBER"):
            parse_guards([wrong])


def values_at(rate):
    return {"optim.learning_rate": rate, "optim.momentum": 0.5}


def test_least_departure_within_one_standard_error_is_chosen():
    """A lower learning rate departs less: of two within one standard error the lower one is chosen."""
    trials = [
        trial(0, 0.10, kind=BASELINE, values=values_at(1e-4)),
        trial(1, 0.80, values=values_at(1e-2)),
        trial(2, 0.78, values=values_at(1e-3)),
        trial(3, 0.50, values=values_at(1e-4)),
    ]
    alone = choose(trials, SPACE, BY[0])
    assert alone.trial == alone.best == 1 and "no spread is known" in alone.rule
    repeats = [
        trial(10 + k, score, kind=FINALIST, parent=parent, seed=k, values=values)
        for parent, values, scores in (
            (1, values_at(1e-2), (0.70, 0.90)),
            (2, values_at(1e-3), (0.77, 0.79)),
            (3, values_at(1e-4), (0.5, 0.5)),
        )
        for k, score in enumerate(scores)
    ]
    choice = choose([*trials, *repeats], SPACE, BY[0])
    assert choice.best == 1 and choice.within == (1, 2) and choice.trial == 2
    assert choice.standings[0].error == pytest.approx(0.1 / math.sqrt(3))
    assert regret({"1": 0.8, "2": 0.78}, str(choice.trial)) == pytest.approx(0.02)
    assert choose([trial(0, 0.5, status=STOPPED)], SPACE, BY[0]) is None


def test_importance_ranks_fields_and_surface_peaks_at_the_optimum():
    ranked = importance(random_trials(60), SPACE, BY[0])
    assert [entry.path for entry in ranked] == ["optim.learning_rate", "optim.momentum"]
    assert ranked[0].mean > 5 * ranked[1].mean
    assert importance(random_trials(5), SPACE, BY[0]) == []
    units, values = samples(random_trials(200), SPACE, BY[0])
    cells = surface(units, values, cells=8)
    assert abs(int(cells.mean(0).argmax()) - 3.5) <= 1  # 1e-3 lies in the middle of the range


@given(st.floats(0, 1), st.integers(0, 5))
def test_trial_round_trips_through_json(score, attempts):
    import json

    original = replace(
        trial(3, score, errors=("a",), attempts=attempts, oracle={"oracle/a": 1.0}), values={"a": (1.0, 2.0), "b": None}
    )
    assert trial_from_plain(json.loads(json.dumps(original.to_plain()))) == original
