"""What Ray Tune decides for a sweep: replayed from records, its searchers and schedulers say what they said live."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.data import DataConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.run import RunOptions
from pipelines.sweep.searchers import check_algorithm, propose
from pipelines.sweep.stopping import verdict
from xmodal.errors import ConfigError
from xmodal.search.objective import SearchObjective, objectives
from xmodal.search.proposals import random_units
from xmodal.search.rungs import Rungs
from xmodal.search.space import parse_space
from xmodal.search.trial import FAILED, FINALIST, FINISHED, REJECTED, RUNNING, SEARCH, Trial, TrialReport

SPACE = parse_space(
    ["optim.learning_rate=loguniform(1e-5,1e-1)", "optim.weight_decay=uniform(0,0.99)"],
    PretrainConfig(run=RunOptions(name="a"), data=DataConfig(corpus=("c",))),
)
BY = (SearchObjective(metric="score"),)
RUNGS = Rungs(grace=0.2, reduction=3)
REPORTS = 10


def trial(number, *scores, status=FINISHED, units=None, **more):
    """Its n-th score after n tenths of its budget."""
    reports = tuple(
        TrialReport(step=100 * (k + 1), steps=100 * REPORTS, seconds=1.0, metrics={"score": score})
        for k, score in enumerate(scores)
    )
    values = {} if units is None else SPACE.decode(units)
    return Trial(**{"number": number, "kind": SEARCH, "values": values, "units": units, "status": status,
                    "reports": reports, **more})  # fmt: skip


def planted(units):
    """Its optimum is a learning rate of 1e-3; the weight decay matters a fifth as much."""
    values = SPACE.decode(units)
    return -((math.log10(values["optim.learning_rate"]) + 3) ** 2) - 0.2 * (values["optim.weight_decay"] - 0.9) ** 2


def searched(algorithm, trials):
    known = []
    for number in range(trials):
        modelled = algorithm != "random" and number >= 8
        units = propose(algorithm, SPACE, 0, number, known, BY) if modelled else random_units(SPACE, 0, number)
        known.append(trial(number, planted(units), units=units))
    return known


@pytest.mark.parametrize(("algorithm", "package"), [("tpe", "optuna"), ("hyperopt", None), ("bayesopt", "bayes_opt")])
def test_each_searcher_of_tune_finds_a_planted_optimum_and_proposes_alike_from_equal_records(algorithm, package):
    pytest.importorskip(package or algorithm)
    known = searched(algorithm, 30)
    scores = [one.last("score") for one in known]
    assert max(scores) > -0.05 and sum(scores[-15:]) > sum(one.last("score") for one in searched("random", 30)[-15:])
    assert propose(algorithm, SPACE, 0, 29, known[:29], BY) == known[29].units
    assert propose(algorithm, SPACE, 1, 29, known[:29], BY) != known[29].units


def test_a_point_at_work_is_left_to_whom_it_was_given_and_a_rejected_one_teaches_nothing_good():
    known = searched("random", 12)
    best = max(known, key=lambda one: one.last("score"))
    at_work = [replace(best, number=20 + k, status=RUNNING, reports=()) for k in range(3)]
    alone, beside = (propose("tpe", SPACE, 0, 12, found, BY) for found in (known, [*known, *at_work]))
    assert math.dist(beside, best.units) > math.dist(alone, best.units)
    splendid = trial(13, 100.0, units=(0.99, 0.01), status=REJECTED)
    assert math.dist(propose("tpe", SPACE, 0, 12, [*known, splendid], BY), splendid.units) > 0.3


def test_where_trials_were_rejected_fewer_are_proposed():
    known = searched("random", 12)
    best = max(known, key=lambda one: one.last("score"))
    rejected = [replace(best, number=20 + k, status=REJECTED) for k in range(4)]

    def away(found):
        return sum(math.dist(propose("tpe", SPACE, 0, number, found, BY), best.units) for number in range(30, 40))

    assert away([*known, *rejected]) > away(known)


def test_two_metrics_are_searched_together():
    def with_cost(one):
        metrics = {**one.reports[0].metrics, "cost": one.values["optim.weight_decay"]}
        return replace(one, reports=(replace(one.reports[0], metrics=metrics),))

    known, by = [with_cost(one) for one in searched("random", 20)], objectives(["score", "cost"], ["max", "min"])
    cheap = [propose("tpe", SPACE, 0, number, known, by)[1] for number in range(20, 30)]
    dear = [propose("tpe", SPACE, 0, number, known, (BY[0],))[1] for number in range(20, 30)]
    assert sum(cheap) < sum(dear)  # the one metric wants a high weight decay, the other a low one


def test_a_search_that_cannot_be_is_one_sentence_with_its_mend():
    with pytest.raises(ConfigError, match="--algorithm tpee: did you mean 'tpe'"):
        check_algorithm("tpee", 1)
    with pytest.raises(ConfigError, match="hyperopt takes one metric, not 2: take tpe"):
        check_algorithm("hyperopt", 2)


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(-9, 9), min_size=REPORTS, max_size=REPORTS), min_size=2, max_size=8), st.randoms())
def test_asha_from_records_decides_as_tunes_own_that_heard_every_report(curves, random):
    """Trials in any interleaving; where three are at a rung, both always say the same."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    live = AsyncHyperBandScheduler(
        "share", metric="score", mode="max", max_t=1, grace_period=0.2, reduction_factor=3, stop_last_trials=False
    )
    trials = [trial(number, status=RUNNING) for number in range(len(curves))]
    for one in trials:
        live.on_trial_add(None, Told(one.name))
    at_work = list(range(len(curves)))
    while at_work:
        number = random.choice(at_work)
        heard = len(trials[number].reports) + 1
        trials[number] = trial(number, *curves[number][:heard], status=RUNNING)
        result = {"share": trials[number].share + 1e-9, "score": curves[number][heard - 1]}
        stopped = heard < REPORTS and live.on_trial_result(None, Told(trials[number].name), result) == "STOP"
        stopped = stopped and sum(len(one.reports) >= (2 if heard < 6 else 6) for one in trials) >= 3
        assert (verdict("asha", RUNGS, trials[number], trials, BY[0]) is not None) == stopped
        if stopped or heard == REPORTS:
            at_work.remove(number)


class Told:
    def __init__(self, name):
        self.trial_id = name


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20), st.floats(-9, 9))
def test_a_rung_lets_the_best_go_on_says_how_many_were_ahead_and_hears_no_rejected_trial(scores, own):
    others = [trial(k + 1, score, score) for k, score in enumerate(scores)]
    me = trial(99, own, own, status=RUNNING)
    assert verdict("asha", RUNGS, trial(99, own, status=RUNNING), others, BY[0]) is None  # not at the rung yet
    why = verdict("asha", RUNGS, me, [*others, me], BY[0])
    ahead = sum(score > own for score in scores)
    assert why is None or f"at 20% of its budget {ahead} of {len(scores)} others were ahead (score" in why
    assert why is None or (ahead > 0 and len(scores) >= 2)
    assert ahead < len(scores) or why is not None or len(scores) < 2
    splendid = [trial(50 + k, 1e6, 1e6, status=status) for k, status in enumerate((FAILED, REJECTED))]
    repeat = trial(60, 1e6, 1e6, kind=FINALIST)
    assert verdict("asha", RUNGS, me, [*others, *splendid, repeat], BY[0]) == why
    mirrored = [trial(k + 1, -score, -score) for k, score in enumerate(scores)]
    lowest = verdict("asha", RUNGS, trial(99, -own, -own), mirrored, SearchObjective(metric="score", sign=-1))
    assert (lowest is None) == (why is None)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_value_that_is_no_number_is_the_worst_of_all_and_a_trial_at_its_end_is_left_alone(scheduler):
    others = [trial(k, *[0.1 * k] * 4) for k in range(1, 5)]
    lost = trial(9, 0.3, math.nan, math.nan)
    assert verdict(scheduler, RUNGS, trial(9, math.nan, math.nan), others, BY[0])
    assert verdict("asha", RUNGS, trial(9, 9.0, 9.0), [*others, lost], BY[0]) is None
    assert verdict(scheduler, RUNGS, trial(9, *[-1.0] * REPORTS), others, BY[0]) is None
    assert verdict(scheduler, RUNGS, trial(9), others, BY[0]) is None


def test_the_median_rule_stops_what_never_was_as_good_as_others_are_on_average():
    others = [trial(k, *[0.1 * k] * 6) for k in range(1, 6)]
    why = verdict("median", RUNGS, trial(9, 0.1, 0.2, 0.25), others, BY[0])
    assert why == "at 30% of its budget it was behind the median of 5 others (score 0.25)"
    assert verdict("median", RUNGS, trial(9, 0.1, 0.2, 0.35), others, BY[0]) is None
    assert verdict("median", RUNGS, trial(9, 0.1, 0.1), others[:2], BY[0]) is None  # too few for a median
