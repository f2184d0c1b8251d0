"""Metrics log, sinks and quarantine of a run: every step once after a resume, and every bad row counted."""

import importlib.util
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from xmodal.errors import CheckpointError, ConfigError, XmodalError
from xmodal.run import MetricsLog, Quarantine, QuarantineRecord, RowCounts, check_sinks, read_metrics, read_quarantine


def events(directory: Path) -> list[Event]:
    """Read TensorBoard files: for each event its length (8 bytes), a checksum (4), the event, a checksum (4)."""
    parsed = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            parsed.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return parsed


def test_tensors_and_numpy_scalars_become_plain_json(tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path), sinks=()) as log:
        log.log(3, {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.int64(7), "d": True, "e": "vit", "f": None})
    line = read_metrics(str(tmp_path))[0]
    assert line.pop("time") > 1.6e9
    assert line == {"step": 3, "a": 0.5, "b": 0.25, "c": 7, "d": True, "e": "vit", "f": None}


def test_nonfinite_metric_is_null_and_listed(tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path)) as log:
        log.log(1, {"loss": math.nan, "grad": torch.tensor(-math.inf), "fine": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    line = read_metrics(str(tmp_path))[0]
    assert (line["loss"], line["grad"], line["fine"]) == (None, None, 1.0)
    assert line["non_finite"] == {"loss": "nan", "grad": "-inf"}


@pytest.mark.parametrize(("name", "value"), [("loss", torch.ones(2)), ("loss", {}), ("step", 1.0), ("time", 1.0)])
def test_invalid_metric_raises_with_its_name(name: str, value: object, tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path), sinks=()) as log, pytest.raises(ConfigError, match=name):
        log.log(1, {name: value})
    assert read_metrics(str(tmp_path)) == []


def test_line_is_readable_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), sinks=())
    log.log(1, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [1]
    log.close()
    log.close()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=20), st.none() | st.integers(0, 30), st.integers(0, 40))
def test_resumed_log_has_each_step_once(tmp_path_factory, steps: list[int], after: int | None, cut: int) -> None:
    run = tmp_path_factory.mktemp("run")
    with MetricsLog(str(run), sinks=()) as log:
        for step in steps:
            log.log(step, {"loss": step / 2})
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 3, "time": 1.0, "loss": 0.123456789}\n'[: min(cut, 40)]
        )  # a write that was cut short by a kill
    messages: list[str] = []
    with MetricsLog(str(run), after_step=after, sinks=(), notify=messages.append) as log:
        log.log(31, {"loss": 0.0})
    expected = [] if after is None else [step for step in steps if step <= after]
    assert [line["step"] for line in read_metrics(str(run))] == [*expected, 31]
    assert bool(messages) == (cut > 0 and after is not None)


def test_tensorboard_events_equal_lines_and_hide_repeated_steps(tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path)) as log:
        for step in (1, 2, 3):
            log.log(step, {"loss": 1 / step, "note": "text stays in the lines"})
    with MetricsLog(str(tmp_path), after_step=2) as log:
        log.log(3, {"loss": 9.0})
    all_events = events(tmp_path / "tensorboard")
    scalars = [(event.step, value.tag) for event in all_events for value in event.summary.value]
    assert sorted(scalars) == [(1, "loss"), (2, "loss"), (3, "loss"), (3, "loss")]
    starts = [event.step for event in all_events if event.HasField("session_log")]
    assert starts == [0, 3]  # TensorBoard drops earlier events from the step of a start on


def test_unknown_sink_raises_with_the_nearest_name() -> None:
    check_sinks(("tensorboard",))
    with pytest.raises(ConfigError, match="unknown destination of metrics 'wandbb': did you mean 'wandb'"):
        check_sinks(("wandbb",))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_raises_with_the_pip_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        check_sinks((name,))


def install_fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    """Install a module of the given functions in place of an optional package."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    for key, value in functions.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def test_wandb_resumes_the_run_of_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Run:
        def log(self, scalars: dict, step: int) -> None:
            calls.append((step, scalars))

        def finish(self) -> None:
            calls.append("finish")

    def init(**options: object) -> Run:
        calls.append(options)
        return Run()

    install_fake_module(monkeypatch, "wandb", init=init)
    with MetricsLog(str(tmp_path), sinks=("wandb",), run_id="ab12", run_name="demo", config={"lr": 1}) as log:
        log.log(1, {"loss": 0.5, "broken": math.nan, "note": "x"})
    assert calls[0] == {"project": "xmodal", "id": "ab12", "name": "demo", "config": {"lr": 1}, "resume": "allow"}
    assert calls[1:] == [(1, {"loss": 0.5}), "finish"]


@pytest.mark.parametrize("exists", [False, True])
def test_mlflow_resumes_the_run_with_the_same_tag(exists: bool, tmp_path: Path, monkeypatch) -> None:
    calls: list[object] = []
    run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="existing"))
    install_fake_module(
        monkeypatch,
        "mlflow",
        search_runs=lambda **options: [run] if exists else [],
        start_run=lambda **options: calls.append(options),
        log_dict=lambda config, name: calls.append(name),
        log_metrics=lambda scalars, step: calls.append((step, scalars)),
        end_run=lambda: calls.append("end"),
    )
    with MetricsLog(str(tmp_path), sinks=("mlflow",), run_id="ab12", run_name="demo") as log:
        log.log(1, {"loss": 0.5})
    started = (
        [{"run_id": "existing"}] if exists else [{"run_name": "demo", "tags": {"xmodal.run_id": "ab12"}}, "config.json"]
    )
    assert calls == [*started, (1, {"loss": 0.5}), "end"]


def record(step: int, detail: str = "cut in the middle", key: str = "000123") -> QuarantineRecord:
    return QuarantineRecord(
        corpus="train", shard="00000.tar", key=key, row=step * 7, offset=512, field="image", reason="truncated",
        detail=detail, step=step, epoch=0,
    )  # fmt: skip


def test_quarantine_records_round_trip(tmp_path: Path) -> None:
    quarantine = Quarantine(str(tmp_path))
    quarantine.add([record(1), record(2)])
    quarantine.sync()
    quarantine.add([record(3)])
    quarantine.sync()
    assert len(quarantine) == 3
    rows = read_quarantine(str(tmp_path)).to_pylist()
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0] == vars(record(1))
    quarantine.write(tmp_path / "copy.parquet")
    assert (tmp_path / "copy.parquet").read_bytes() == (tmp_path / "quarantine.parquet").read_bytes()


@pytest.mark.parametrize(("after", "expected"), [(None, []), (0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_resumed_quarantine_drops_rows_of_later_steps(after: int | None, expected: list[int], tmp_path: Path) -> None:
    first = Quarantine(str(tmp_path))
    first.add(record(step) for step in (1, 2, 3))
    first.sync()
    resumed = Quarantine(str(tmp_path), after_step=after)
    resumed.add([record(10)])
    resumed.sync()
    assert read_quarantine(str(tmp_path))["step"].to_pylist() == [*expected, 10]


def test_invalid_utf8_is_escaped_and_long_details_are_cut(tmp_path: Path) -> None:
    quarantine = Quarantine(str(tmp_path))
    quarantine.add([record(1, detail="x" * 10**6, key="caf\udce9")])
    quarantine.sync()
    row = read_quarantine(str(tmp_path)).to_pylist()[0]
    assert row["key"] == "caf\\udce9"
    assert len(row["detail"]) == 500


def test_quarantine_is_empty_without_a_file_and_damaged_files_raise(tmp_path: Path) -> None:
    assert len(read_quarantine(str(tmp_path))) == 0
    (tmp_path / "quarantine.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_quarantine(str(tmp_path))


counts = st.integers(0, 10**12)


@settings(deadline=None)
@given(counts, counts, counts, counts)
def test_row_counts_raise_if_rows_are_lost_or_come_twice(planned: int, bad: int, padding: int, lost: int) -> None:
    row_counts = RowCounts(planned=planned + bad, delivered=planned, quarantined=bad, padding=padding)
    row_counts.check()
    assert (row_counts + row_counts).planned == 2 * row_counts.planned
    assert 0 <= row_counts.bad_fraction <= 1
    if lost:
        with pytest.raises(XmodalError, match=f"^{lost} rows were lost"):
            (row_counts + RowCounts(planned=lost)).check()
        with pytest.raises(XmodalError, match=f"^{lost} rows came twice"):
            (row_counts + RowCounts(delivered=lost)).check()


def test_each_line_is_one_json_object(tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path), sinks=()) as log:
        log.log(1, {"note": "two\nlines and \u2028 another"})
        log.log(2, {"note": "x"})
    lines = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["step"] for line in lines[:-1]] == [1, 2]
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2]
