"""The figures of a run: (step, metrics) in, a line of `metrics.jsonl` and an event in every sink out.

Written by one process, rank 0. A run that continues from step s first drops the lines after s: they come again, and a
curve has no doubles.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TextIO

from xmodal import storage
from xmodal.errors import ConfigError
from xmodal.run.metric_sinks import Sink, open_sinks
from xmodal.storage import NotFound, StorageOptions
from xmodal.storage.address import S3Address, parse

DEFAULT = StorageOptions()
FILE = "metrics.jsonl"
RESERVED = ("step", "time", "non_finite")

Notify = Callable[[str], None]


class MetricsLog:
    """Appends to `<run_uri>/metrics.jsonl` and to `sinks`.

    `after_step` is the step the run continues from; None for a start from nothing. A local file is appended to and
    flushed line by line; for S3 the lines wait in a local file until `sync`, which belongs beside every checkpoint.
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
        kept = _lines_up_to(self._uri, after_step, notify, options)
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._path = self._prepare(kept)
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        self._sinks: list[Sink] = open_sinks(
            sinks,
            run_uri,
            run_id=run_id,
            run_name=run_name,
            config=config or {},
            after_step=after_step,
            options=options,
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line: `step`, `time` (seconds since 1970), then the metrics as plain JSON.

        Values are numbers (0-dimensional tensors and numpy scalars too), booleans, text or None; ConfigError names any
        other. One that is not finite becomes null and is named under `non_finite`: JSON has no NaN.
        """
        values = {name: _plain(name, value) for name, value in metrics.items()}
        broken = {name: repr(value) for name, value in values.items() if not _finite(value)}
        line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        line |= {name: None if name in broken else value for name, value in values.items()}
        if broken:
            line["non_finite"] = broken
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.log(step, _numbers({name: value for name, value in values.items() if name not in broken}))

    def sync(self) -> None:
        """Make everything logged so far durable in storage."""
        self._file.flush()
        if self._spool:
            storage.upload(str(self._path), self._uri, options=self._options)
        for sink in self._sinks:
            sink.sync()

    def close(self) -> None:
        """Sync and end; safe to call again."""
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

    def _prepare(self, kept: bytes) -> Path:
        """The local file to append to, holding the kept lines; for a local run that is the run's own file."""
        address = parse(self._uri)
        if not isinstance(address, S3Address):
            storage.write(self._uri, kept)
            return Path(address.path)
        self._spool = tempfile.TemporaryDirectory(prefix="xmodal-metrics-")
        path = Path(self._spool.name) / FILE
        path.write_bytes(kept)
        return path


def read_metrics(run_uri: str, *, options: StorageOptions = DEFAULT) -> list[Any]:
    """The lines of a run's `metrics.jsonl`, oldest first; a last line that is still being written is left out.

    Each is a table with a `step`, unless the file was tampered with.
    """
    data = storage.read(storage.join(run_uri, FILE), options=options)
    whole, _, _ = data.rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def _lines_up_to(uri: str, after_step: int | None, notify: Notify, options: StorageOptions) -> bytes:
    """The stored lines with a step up to `after_step`; a line cut short by a kill is dropped and reported."""
    if after_step is None:
        return b""
    try:
        data = storage.read(uri, options=options)
    except NotFound:
        return b""
    kept, torn = [], 0
    for line in data.splitlines():
        step = _step(line)
        torn += step is None
        if step is not None and step <= after_step:
            kept.append(line + b"\n")
    if torn:
        notify(f"{uri}: {torn} line(s) cut short by a kill were dropped")
    return b"".join(kept)


def _step(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _plain(name: str, value: Any) -> Any:
    if name in RESERVED:
        raise ConfigError(f"a metric cannot be called {name!r}; these names are taken: {', '.join(RESERVED)}")
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"the metric {name!r} is a {type(value).__name__}; log numbers, not arrays or tables")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
