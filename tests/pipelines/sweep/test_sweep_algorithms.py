"""Searchers and schedulers of Ray Tune in a sweep: what they draw and stop, and that records suffice to resume."""

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler

from pipelines.config.run import RunOptions
from pipelines.config.sweep import SweepConfig
from pipelines.sweep.options import parse_options
from pipelines.sweep.plan import outline
from pipelines.sweep.recorder import SweepRecorder
from pipelines.sweep.schedulers import SweepScheduler, make_scheduler, stop_reason
from pipelines.sweep.search_algorithm import PointSource
from pipelines.sweep.trainable import interval, plain_values
from pipelines.sweep.trial_store import open_store
from support import fake_trials
from xmodal.errors import ConfigError
from xmodal.search.trial import BASELINE, FAILED, FINALIST, FINISHED, REJECTED, RUNNING, STOPPED, WAITING, TrialReport

SEARCH = ("optim.learning_rate=loguniform(1e-5,1e-1)", "optim.weight_decay=uniform(0,0.99)")
REPORTS = 10
STOP, CONTINUE = "STOP", "CONTINUE"


def plan_of(folder, **changes):
    given = {"search": SEARCH, "metric": ("score",), "trials": 30, "finalists": 0, "grace": 0.2, "reduction": 3.0}
    named = RunOptions(name="sweep", runs=str(folder))
    return outline(SweepConfig(run=fake_trials.Config(), sweep=named, command=("planted",), **given | changes))


def needs(algorithm, module):
    return pytest.param(algorithm, marks=pytest.mark.skipif(find_spec(module) is None, reason=f"no {module}"))


ALGORITHMS = ["random", needs("tpe", "optuna"), needs("cmaes", "cmaes"), needs("nsga2", "optuna"),
              needs("hyperopt", "hyperopt"), needs("bayesopt", "bayes_opt")]  # fmt: skip
GUIDED = [algorithm for algorithm in ALGORITHMS if algorithm != "random"]


def planted(values):
    """Its optimum is a learning rate of 1e-3; the weight decay matters a fifth as much."""
    return -((math.log10(values["optim.learning_rate"]) + 3) ** 2) - 0.2 * (values["optim.weight_decay"] - 0.9) ** 2


def reports(*scores):
    """A score after each tenth of the budget."""
    return tuple(
        TrialReport(step=100 * (k + 1), steps=100 * REPORTS, seconds=1.0, metrics={"score": score})
        for k, score in enumerate(scores)
    )


def search(plan, trials):
    """Return the records of trials that run one after another, in the order of their draws and ends."""
    points, records = PointSource(plan), []
    for number in range(trials):
        drawn = replace(points.draw(number), number=number, asked=2 * number + 1)
        record = replace(drawn, status=FINISHED, reports=reports(planted(drawn.values)), ended=2 * number + 2)
        points.tell(record)
        records.append(record)
    return records


def best(records):
    return max(record.last("score") for record in records)


@pytest.mark.parametrize("algorithm", GUIDED)
def test_each_searcher_of_tune_finds_a_planted_optimum(tmp_path, algorithm):
    records, random = (search(plan_of(tmp_path, algorithm=name), 60) for name in (algorithm, "random"))
    assert best(records) > -0.25
    assert sum(r.last("score") for r in records[30:]) > sum(r.last("score") for r in random[30:])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_that_is_resumed_draws_what_an_undisturbed_one_draws(tmp_path, algorithm):
    plan = plan_of(tmp_path, algorithm=algorithm)
    records = search(plan, 24)
    assert PointSource(plan, records[:23]).draw(23).units == pytest.approx(records[23].units, abs=1e-12)
    other_seed = replace(plan, config=replace(plan.config, seed=1))
    assert PointSource(other_seed).draw(0).units != records[0].units


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_goes_on_from_records_that_its_searcher_would_not_have_drawn(tmp_path, algorithm):
    """As those of a sweep begun by an earlier version, which knew no order of draws and ends."""
    plan = plan_of(tmp_path, algorithm=algorithm)
    foreign = replace(plan, config=replace(plan.config, seed=7))
    records = [replace(record, asked=0, ended=0) for record in search(foreign, 12)]
    assert PointSource(plan, records).draw(12) is not None


def test_a_rejected_point_is_avoided_and_one_that_failed_is_forgotten(tmp_path):
    pytest.importorskip("optuna")
    plan = plan_of(tmp_path, algorithm="tpe")
    records = search(plan, 16)
    winner = max(records, key=lambda record: record.last("score"))

    def distance(status):
        extra = [replace(winner, number=16 + k, asked=100 + 2 * k, ended=101 + 2 * k, status=status) for k in range(4)]
        points = PointSource(plan, [*records, *extra])
        return sum(math.dist(points.draw(number).units, winner.units) for number in range(30, 40))

    assert distance(REJECTED) > distance(FAILED)


def test_several_metrics_are_searched_together(tmp_path):
    pytest.importorskip("optuna")

    def cheapness(**changes):
        plan = plan_of(tmp_path, algorithm="tpe", scheduler="fifo", **changes)
        points, drawn = PointSource(plan), []
        for number in range(40):
            trial = replace(points.draw(number), number=number, status=FINISHED)
            values = {"score": planted(trial.values), "cost": trial.values["optim.weight_decay"]}
            points.tell(replace(trial, reports=(TrialReport(step=1, steps=1, seconds=1.0, metrics=values),)))
            drawn.append(trial.values["optim.weight_decay"])
        return sum(drawn[20:])

    assert cheapness(metric=("score", "cost"), mode=("max", "min")) < cheapness()


def test_a_grid_has_every_combination_once_and_then_ends(tmp_path):
    plan = plan_of(tmp_path, algorithm="grid", points=3)
    points = PointSource(plan)
    drawn = [points.draw(number) for number in range(10)]
    assert plan.draw_count == 9 and drawn[9] is None
    assert len({tuple(trial.values.values()) for trial in drawn[:9]}) == 9


def test_points_whose_values_cannot_stand_together_are_not_run(tmp_path):
    plan = plan_of(tmp_path, algorithm="random")

    def make(values, seed):
        if values["optim.weight_decay"] > 0.5:
            raise ConfigError("too much decay")

    points = PointSource(replace(plan, make=make))
    assert all(points.draw(number).values["optim.weight_decay"] <= 0.5 for number in range(20))
    grid = PointSource(replace(plan_of(tmp_path, algorithm="grid"), make=make))
    statuses = [grid.draw(number).status for number in range(9)]
    assert (statuses.count(WAITING), statuses.count(REJECTED)) == (6, 3)

    def never(values, seed):
        raise ConfigError("no decay at all")

    with pytest.raises(ConfigError, match=r"50 points of the space.* cannot be run; the last one: no decay at all"):
        PointSource(replace(plan, make=never)).draw(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "tpee"}, "--algorithm tpee: did you mean 'tpe'"),
        ({"algorithm": "hyperopt", "metric": ("score", "b"), "scheduler": "fifo"}, "hyperopt takes one metric, not 2"),
        ({"algorithm_options": ("a=1",)}, "--algorithm random has none"),
        ({"algorithm": "tpe", "algorithm_options": ("n_startup=3",)}, "TPESampler has no 'n_startup': did you mean"),
        ({"scheduler_options": ("bracket=2",)}, "has no 'bracket': did you mean 'brackets'"),
        ({"scheduler_options": ("brackets",)}, "is not NAME=VALUE"),
        ({"scheduler_options": ("time_attr=step",)}, "has no 'time_attr'"),
        ({"scheduler_options": ("grace_period=5",)}, "--scheduler-options grace_period: give --grace instead"),
        ({"algorithm": "tpe", "algorithm_options": ("seed=5",)}, "--algorithm-options seed: give --seed instead"),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence_with_its_fix(tmp_path, changes, message):
    pytest.importorskip("optuna")
    pytest.importorskip("hyperopt")
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path, **changes)


def test_options_reach_the_class_that_takes_them(tmp_path):
    assert parse_options("--a", ["b=2", "c=[1]", "d=word"]) == {"b": 2, "c": [1], "d": "word"}
    plan = plan_of(tmp_path, scheduler_options=("brackets=2",))
    assert len(make_scheduler(plan, members=())._brackets) == 2


class Sweep:
    """A scheduler of a sweep and its records, with a controller that the schedulers under test never ask."""

    def __init__(self, folder, **changes):
        self.plan = plan_of(folder, algorithm="random", **changes)
        resumed = replace(self.plan.config, sweep=replace(self.plan.config.sweep, resume=(folder / "sweep").exists()))
        self.recorder = SweepRecorder(self.plan, open_store(resumed), lambda event: None)
        self.scheduler = SweepScheduler(make_scheduler(self.plan, members=()), self.recorder)
        self.trials = {}

    def start(self, number):
        self.trials[number] = TuneTrial("xmodal", trial_id=f"tune-{number}", stub=True)
        self.trials[number].config = {"trial": {"number": number}}
        self.scheduler.on_trial_add(None, self.trials[number])
        self.recorder.start(number)

    def add(self, kind="search"):
        trial = self.recorder.store.add(replace(self.plan.search_trial({}, None), kind=kind))
        self.start(trial.number)
        return trial.number

    def report(self, number, score, tenth):
        """Whether Tune is told to stop the trial after so many tenths of its budget."""
        result = {"step": 100 * tenth, "steps": 1000, "score": score, "reported": ("score",), "training_iteration": 1}
        return self.scheduler.on_trial_result(None, self.trials[number], result)

    def __getitem__(self, number):
        return self.recorder.store[number]


def test_the_baseline_and_repeats_are_never_stopped_and_others_are_with_the_reason(tmp_path):
    sweep = Sweep(tmp_path)
    kinds = [sweep.add(BASELINE), sweep.add(), sweep.add(), sweep.add(FINALIST), sweep.add(FINALIST)]
    scores = {number: score for number, score in zip(kinds, (0.0, 0.9, 0.8, 0.1, 0.1), strict=True)}
    assert [sweep.report(number, scores[number], 2) for number in kinds] == [CONTINUE] * 5
    late = sweep.add()
    assert sweep.report(late, 0.5, 1) == CONTINUE  # not at the rung yet
    assert sweep.report(late, 0.5, 2) == STOP
    assert sweep[late].status == STOPPED
    assert sweep[late].why == "at 20% of its budget 2 of 3 others were ahead (score 0.5)"


def test_asha_does_not_stop_the_second_of_two(tmp_path):
    sweep = Sweep(tmp_path)
    first, second, third = sweep.add(BASELINE), sweep.add(), sweep.add()
    assert sweep.report(first, 0.9, 2) == CONTINUE
    assert sweep.report(second, 0.1, 2) == CONTINUE and sweep[second].status == RUNNING
    assert sweep.report(third, 0.1, 2) == STOP


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_value_that_is_not_finite_is_the_worst_of_all(tmp_path, scheduler):
    sweep = Sweep(tmp_path, scheduler=scheduler)
    numbers = [sweep.add() for _ in range(6)]
    for tenth in (1, 2):
        for number in numbers[:-1]:
            assert sweep.report(number, 0.5, tenth) == CONTINUE
    sweep.report(numbers[-1], math.nan, 1)
    assert sweep.report(numbers[-1], math.nan, 2) == STOP


def test_a_guard_rejects_from_the_grace_on_and_what_it_rejects_leaves_no_trace(tmp_path):
    sweep = Sweep(tmp_path, guard=("score <= 2 * baseline",))
    numbers = [sweep.add(BASELINE), sweep.add(), sweep.add()]
    for number, score in zip(numbers, (0.5, 0.6, 0.7), strict=True):
        assert sweep.report(number, score, 2) == CONTINUE
    splendid = [sweep.add() for _ in range(3)]
    for number in splendid:
        assert sweep.report(number, 5.0, 1) == CONTINUE
        assert sweep.report(number, 5.0, 2) == STOP
        assert sweep[number].status == REJECTED and "not <= 1 (2 x the baseline's)" in sweep[number].why
    good = sweep.add()
    assert sweep.report(good, 0.7, 2) == CONTINUE


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), min_size=4, max_size=7), st.integers(0, 99))
def test_a_resumed_sweep_stops_whom_an_undisturbed_one_stops(tmp_path_factory, curves, moment):
    """The driver is killed between any two reports; an ASHA made anew decides as the one that heard all of them."""
    rule = {"time_attr": "share", "metric": "score", "mode": "max", "max_t": 1, "grace_period": 0.2}
    live = AsyncHyperBandScheduler(**rule, reduction_factor=3, stop_last_trials=False)
    sweep = Sweep(tmp_path_factory.mktemp("sweep"))
    numbers = [sweep.add() for _ in curves]
    stubs = {number: TuneTrial("xmodal", trial_id=f"live-{number}", stub=True) for number in numbers}
    for stub in stubs.values():
        live.on_trial_add(None, stub)
    events = [(tenth, number) for tenth in range(1, 5) for number in numbers]
    for count, (tenth, number) in enumerate(events):
        if count == moment % len(events):
            sweep.recorder.store.sync(now=True)
            sweep = Sweep(Path(sweep.plan.config.sweep.runs))
            for resumed in numbers:
                if not sweep[resumed].over:
                    sweep.start(resumed)
        if sweep[number].over:
            continue
        score = curves[number][tenth - 1]
        expected = live.on_trial_result(None, stubs[number], {"share": tenth / 10 + 1e-9, "score": score})
        there = sum(record.share >= 0.2 - 1e-9 for record in sweep.recorder.store.trials) + (tenth == 2)
        decision = sweep.report(number, score, tenth)
        assert (decision == STOP) == (expected == STOP and there >= 3)


def test_the_median_rule_stops_what_never_was_as_good_as_others_are_on_average(tmp_path):
    sweep = Sweep(tmp_path, scheduler="median")
    numbers = [sweep.add() for _ in range(5)]
    for tenth in (1, 2, 3):
        for number in numbers:
            sweep.report(number, 0.1 * (number + 1), tenth)
    poor, fair = sweep.add(), sweep.add()
    for tenth, (low, high) in enumerate([(0.1, 0.3), (0.15, 0.35)], 1):
        poor_decision, fair_decision = sweep.report(poor, low, tenth), sweep.report(fair, high, tenth)
    assert (poor_decision, fair_decision) == (STOP, CONTINUE)
    assert "behind (score 0.15)" in sweep[poor].why


def test_a_reason_is_given_only_where_enough_trials_have_reached_the_rung(tmp_path):
    plan = plan_of(tmp_path)
    others = [replace(plan.search_trial({}, None), number=k, reports=reports(0.5, 0.5)) for k in range(2)]
    own = replace(plan.search_trial({}, None), number=9, reports=reports(0.1, 0.1))
    assert stop_reason(plan, own, others[:1]) is None
    assert stop_reason(plan, own, others) == "at 20% of its budget 2 of 2 others were ahead (score 0.1)"


@given(st.floats(0, 1), st.floats(-0.5, 1.5), st.booleans())
def test_an_interval_of_tune_is_a_pair_in_order_within_its_ends(low_unit, width_unit, log):
    drawn = interval(0.1, 10, log=log) | {"low_unit": low_unit, "width_unit": width_unit}
    low, high = plain_values({"balance.rescale": drawn})["balance.rescale"]
    assert 0.1 <= low <= high <= 10


def test_as_many_actors_ask_for_a_steady_node_as_there_is_room(tmp_path):
    sweep = Sweep(tmp_path)
    recorder = SweepRecorder(replace(sweep.plan, count_steady=lambda: 2), sweep.recorder.store, lambda event: None)
    trials = [recorder.store.add(sweep.plan.search_trial({}, None)) for _ in range(4)]
    assert [recorder.trial_config(trial)["steady"] for trial in trials[:3]] == [True, True, False]
    recorder.start(0)
    recorder.end(0, FINISHED, "")
    assert recorder.trial_config(trials[3])["steady"]
