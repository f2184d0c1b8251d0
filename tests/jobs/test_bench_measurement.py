"""Measurements of benchmarks: when they reach their target, their JSON line, and the exit code of a run."""

import json
import math
import types

import pytest

from jobs.bench import __main__ as bench
from jobs.bench.measurement import Measurement, median_measurement

WHERE = {"command": "c", "commit": "abc", "hardware": {}, "versions": {}}


@pytest.mark.parametrize(
    ("value", "target", "lower_is_better", "ok"),
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
def test_a_measurement_is_ok_only_on_the_right_side_of_its_target(value, target, lower_is_better, ok):
    assert Measurement(name="x", value=value, unit="s", target=target, lower_is_better=lower_is_better).ok is ok


def test_the_json_line_begins_with_the_documented_keys_in_order():
    line = Measurement(name="x", value=1.23456789, unit="s", target=2, lower_is_better=True).to_json(WHERE)
    keys = ["name", "value", "unit", "reach", "ok", *WHERE, "repeats", "spread"]
    assert list(json.loads(line))[: len(keys)] == keys


def test_a_value_that_could_not_be_measured_is_null_in_json():
    line = Measurement(name="x", value=math.nan, unit="s", target=2).to_json(WHERE)
    assert json.loads(line, parse_constant=pytest.fail)["value"] is None


def test_the_median_has_the_number_and_the_spread_of_its_repeats():
    measurement = median_measurement([4.0, 1.0, 3.0, 2.0, 5.0], name="x", unit="s")
    assert (measurement.value, measurement.repeats, measurement.spread) == (3.0, 5, 1.5)


def test_the_exit_code_is_one_where_a_target_is_missed(monkeypatch, capsys):
    measurements = [Measurement(name="good", value=1, unit="s"), Measurement(name="slow", value=1, unit="x", target=2)]
    monkeypatch.setattr(bench, "benchmarks", lambda: ["fake"])
    monkeypatch.setattr(
        bench.importlib, "import_module", lambda _: types.SimpleNamespace(run=lambda: iter(measurements))
    )
    assert bench.main(["fake"]) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["ok"] for line in printed.out.splitlines()] == [True, False]
    assert "slow" in printed.err
    measurements.pop()
    assert bench.main(["fake"]) == 0


def test_an_unknown_benchmark_is_answered_with_the_nearest_name(monkeypatch, capsys):
    monkeypatch.setattr(bench, "benchmarks", lambda: ["ingest", "loss"])
    assert bench.main(["los"]) == 2
    assert "did you mean 'loss'" in capsys.readouterr().err
