"""The metrics log of a run: one line of `metrics.jsonl` for each logged step, and an event in every sink.

Written by one process, rank 0. A run that resumes from step s first drops the lines after s, because these steps are
logged again.
"""

import json
import math
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

from xmodal import storage
from xmodal.callbacks import Notify
from xmodal.errors import ConfigError
from xmodal.run.metric_sinks import MetricSink, open_sinks
from xmodal.storage import NotFound, StorageOptions
from xmodal.storage.address import S3Address, parse

DEFAULT = StorageOptions()
FILE = "metrics.jsonl"
RESERVED = ("step", "time", "non_finite")


class MetricsLog:
    """Appends to `<run_uri>/metrics.jsonl` and to `sinks`.

    `after_step` is the step that the run resumes from; None for a new run. A local file is flushed after each line.
    For S3 the lines stay in a local file until `sync`, which should be called with every checkpoint.
    """

    def __init__(
        self,
        run_uri: str,
        *,
        after_step: int | None = None,
        sinks: Collection[str] = ("tensorboard",),
        run_id: str = "",
        run_name: str = "",
        config: Mapping[str, Any] | None = None,
        notify: Notify = lambda message: None,
        options: StorageOptions = DEFAULT,
    ) -> None:
        self._uri = storage.join(run_uri, FILE)
        self._options = options
        earlier_lines = _lines_up_to(self._uri, after_step, notify, options)
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._path = self._prepare(earlier_lines)
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        self._sinks: list[MetricSink] = open_sinks(
            sinks,
            run_uri,
            run_id=run_id,
            run_name=run_name,
            config=config or {},
            after_step=after_step,
            options=options,
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one line: `step`, `time` (seconds since 1970), then the metrics as plain JSON.

        Values are numbers (also 0-dimensional tensors and numpy scalars), booleans, text or None; ConfigError names
        any other. A value that is not finite becomes null and is listed under `non_finite`, because JSON has no NaN.
        """
        values = {name: _plain(name, value) for name, value in metrics.items()}
        non_finite = {name: repr(value) for name, value in values.items() if not _finite(value)}
        line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        line |= {name: None if name in non_finite else value for name, value in values.items()}
        if non_finite:
            line["non_finite"] = non_finite
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.log(step, _numbers({name: value for name, value in values.items() if name not in non_finite}))

    def sync(self) -> None:
        """Make everything logged so far durable in storage."""
        self._file.flush()
        if self._spool:
            storage.upload(str(self._path), self._uri, options=self._options)
        for sink in self._sinks:
            sink.sync()

    def close(self) -> None:
        """Sync and close; can be called again."""
        if self._file.closed:
            return
        self.sync()
        self._file.close()
        for sink in self._sinks:
            sink.close()
        if self._spool:
            self._spool.cleanup()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare(self, earlier_lines: bytes) -> Path:
        """Return the local file to append to, with the earlier lines; for a local run it is the run's own file."""
        address = parse(self._uri)
        if not isinstance(address, S3Address):
            storage.write(self._uri, earlier_lines)
            return Path(address.path)
        self._spool = tempfile.TemporaryDirectory(prefix="xmodal-metrics-")
        path = Path(self._spool.name) / FILE
        path.write_bytes(earlier_lines)
        return path


def read_metrics(run_uri: str, *, options: StorageOptions = DEFAULT) -> list[Any]:
    """Return the lines of a run's `metrics.jsonl`, oldest first, without a last line that is still being written.

    Each line is a dict with a `step`, unless somebody edited the file.
    """
    data = storage.read(storage.join(run_uri, FILE), options=options)
    complete, _, _ = data.rpartition(b"\n")
    return [json.loads(line) for line in complete.splitlines()]


def _lines_up_to(uri: str, after_step: int | None, notify: Notify, options: StorageOptions) -> bytes:
    """Return the stored lines with a step up to `after_step`; a line cut short by a kill is dropped and reported."""
    if after_step is None:
        return b""
    try:
        data = storage.read(uri, options=options)
    except NotFound:
        return b""
    lines, incomplete = [], 0
    for line in data.splitlines():
        step = _step(line)
        incomplete += step is None
        if step is not None and step <= after_step:
            lines.append(line + b"\n")
    if incomplete:
        notify(f"{uri}: {incomplete} line(s) cut short by a kill were dropped")
    return b"".join(lines)


def _step(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _plain(name: str, value: object) -> object:
    if name in RESERVED:
        raise ConfigError(f"a metric cannot be called {name!r}; these names are reserved: {', '.join(RESERVED)}")
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"the metric {name!r} is a {type(value).__name__}; log numbers, not arrays or tables")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
