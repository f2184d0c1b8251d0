"""What a run says while it goes."""

import io
from types import SimpleNamespace

from jobs import progress_reporter


def test_the_remaining_time_leaves_the_start_out(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_reporter, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    out = io.StringIO()
    tell = progress_reporter.Narrator("t", out)
    metrics = {"loss": 1.0, "samples_per_s": 10.0, "data_wait_share": 0.0, "rows/quarantined": 0}
    tell({"kind": "start", "step": 0, "workers": 2, "found": None})
    for clock[0], step in ((100.0, 10), (120.0, 20), (300.0, 110)):  # a hundred seconds to start, then two a step
        tell({"kind": "progress", "step": step, "steps": 110, "metrics": metrics})
    first, second, last = out.getvalue().splitlines()[1:]
    assert "step 10/110" in first and "ETA" not in first
    assert second.endswith("ETA 3:00") and last.endswith("ETA 0:00")
