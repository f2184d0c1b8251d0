"""Lines about the progress of a run."""

import io
from types import SimpleNamespace

from jobs import progress_reporter
from pipelines.runtime.events import StepMetrics, WorkerGroupStart


def test_the_remaining_time_does_not_count_the_start(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_reporter, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    out = io.StringIO()
    tell = progress_reporter.ProgressReporter("t", out)
    metrics = {"loss": 1.0, "samples_per_s": 10.0, "data_wait_share": 0.0, "rows/quarantined": 0}
    tell(WorkerGroupStart(step=0, steps=110, workers=2, node="", checkpoint=None))
    for clock[0], step in ((100.0, 10), (120.0, 20), (300.0, 110)):  # a hundred seconds to start, then two a step
        tell(StepMetrics(step=step, steps=110, metrics=metrics))
    first, second, last = out.getvalue().splitlines()[1:]
    assert "step 10/110" in first and "ETA" not in first
    assert second.endswith("ETA 3:00") and last.endswith("ETA 0:00")
