"""The benchmark frame: a figure knows whether it reached its target, and a run's exit code says so."""

import json
import math
import types

import pytest

from jobs.bench import __main__ as bench
from jobs.bench.measurement import Figure, median_figure

WHERE = {"command": "c", "commit": "abc", "hardware": {}, "versions": {}}


@pytest.mark.parametrize(
    ("value", "reach", "at_most", "ok"),
    [
        (1.3, 1.3, False, True),
        (1.2, 1.3, False, False),
        (0.1, 0.1, True, True),
        (0.2, 0.1, True, False),
        (5.0, None, False, True),
        (math.nan, 1.0, True, False),
        (math.nan, 1.0, False, False),
    ],
)
def test_a_figure_is_ok_only_on_the_right_side_of_its_target(value, reach, at_most, ok):
    assert Figure(name="x", value=value, unit="s", reach=reach, at_most=at_most).ok is ok


def test_the_line_opens_with_the_promised_keys_in_order():
    line = Figure(name="x", value=1.23456789, unit="s", reach=2, at_most=True).to_json(WHERE)
    keys = ["name", "value", "unit", "reach", "ok", *WHERE, "repeats", "spread"]
    assert list(json.loads(line))[: len(keys)] == keys


def test_what_could_not_be_measured_is_null_which_json_has_a_word_for():
    line = Figure(name="x", value=math.nan, unit="s", reach=2).to_json(WHERE)
    assert json.loads(line, parse_constant=pytest.fail)["value"] is None


def test_the_median_figure_carries_the_spread_of_its_repeats():
    figure = median_figure([4.0, 1.0, 3.0, 2.0, 5.0], name="x", unit="s")
    assert (figure.value, figure.repeats, figure.spread) == (3.0, 5, 1.5)


def test_one_shortfall_makes_the_exit_code_one(monkeypatch, capsys):
    figures = [Figure(name="good", value=1, unit="s"), Figure(name="slow", value=1, unit="x", reach=2)]
    monkeypatch.setattr(bench, "benchmarks", lambda: ["fake"])
    monkeypatch.setattr(bench.importlib, "import_module", lambda _: types.SimpleNamespace(run=lambda: iter(figures)))
    assert bench.main(["fake"]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["ok"] for line in printed.out.splitlines()] == [True, False]
    assert "slow" in printed.err
    figures.pop()
    assert bench.main(["fake"]) == 0


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(bench, "benchmarks", lambda: ["ingest", "loss"])
    assert bench.main(["los"]) == 2
    assert "did you mean 'loss'" in capsys.readouterr().err
