"""Destinations of metrics besides `metrics.jsonl`: TensorBoard, Weights & Biases and MLflow."""

import importlib
import importlib.util
import secrets
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from xmodal import storage
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions
from xmodal.storage.address import S3Address, parse

Scalars = Mapping[str, float]

_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


@runtime_checkable
class MetricSink(Protocol):
    """A destination of finite scalars; `sync` makes them durable, `close` ends."""

    def log(self, step: int, scalars: Scalars) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


def check_sinks(names: Collection[str]) -> None:
    """Raise ConfigError for an unknown name, or for a package that is not installed; called before workers start."""
    for name in names:
        if name not in _MODULES:
            raise ConfigError(f"unknown destination of metrics {name!r}: {nearest(name, _MODULES)}")
        if importlib.util.find_spec(_MODULES[name]) is None:
            raise ConfigError(f"metrics to {name} need its package: pip install {_MODULES[name]}")


def open_sinks(
    names: Collection[str],
    run_uri: str,
    *,
    run_id: str,
    run_name: str,
    config: Mapping[str, object],
    after_step: int | None,
    options: StorageOptions,
) -> list[MetricSink]:
    """Return one sink for each name, in order; metrics after `after_step` will be logged again and replace the old."""
    check_sinks(names)
    sinks: list[MetricSink] = []
    for name in names:
        if name == "tensorboard":
            sinks.append(TensorBoard(storage.join(run_uri, "tensorboard"), after_step=after_step, options=options))
        elif name == "wandb":
            sinks.append(WeightsAndBiases(run_id=run_id, run_name=run_name, config=config))
        else:
            sinks.append(MLflow(run_id=run_id, run_name=run_name, config=config))
    return sinks


class TensorBoard:
    """TensorBoard event files below `uri`; for S3 they are written to a local directory and uploaded by `sync`."""

    def __init__(self, uri: str, *, after_step: int | None, options: StorageOptions) -> None:
        self._uri = uri
        self._options = options
        self._spool: tempfile.TemporaryDirectory[str] | None = None
        self._directory = self._prepare()
        from tensorboardX import SummaryWriter  # imports torch, which reading a run does not need

        self._writer = SummaryWriter(
            str(self._directory),
            purge_step=0 if after_step is None else after_step + 1,  # TensorBoard hides earlier events from there on
            filename_suffix=f".{secrets.token_hex(4)}",  # file names have seconds only: a quick restart would overwrite
        )

    def log(self, step: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        self._writer.flush()
        if self._spool:
            for path in sorted(self._directory.iterdir()):
                storage.upload(str(path), storage.join(self._uri, path.name), options=self._options)

    def close(self) -> None:
        self.sync()
        self._writer.close()
        if self._spool:
            self._spool.cleanup()

    def _prepare(self) -> Path:
        address = parse(self._uri)
        if not isinstance(address, S3Address):
            return Path(address.path)
        self._spool = tempfile.TemporaryDirectory(prefix="xmodal-events-")
        return Path(self._spool.name)


class WeightsAndBiases:
    """The run of the same id at wandb.ai or another server; `wandb` reads its key from its own settings."""

    def __init__(self, *, run_id: str, run_name: str, config: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(project="xmodal", id=run_id, name=run_name, config=dict(config), resume="allow")

    def log(self, step: int, scalars: Scalars) -> None:
        self._run.log(dict(scalars), step=step)

    def sync(self) -> None:
        """Do nothing: wandb sends by itself."""

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """The MLflow run with the tag `xmodal.run_id` at the tracking server of the environment; created if missing."""

    def __init__(self, *, run_id: str, run_name: str, config: Mapping[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        tag = {"xmodal.run_id": run_id}
        runs = self._mlflow.search_runs(filter_string=f"tags.`xmodal.run_id` = '{run_id}'", output_format="list")
        if runs:
            self._mlflow.start_run(run_id=runs[0].info.run_id)
        else:
            self._mlflow.start_run(run_name=run_name, tags=tag)
            self._mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, scalars: Scalars) -> None:
        self._mlflow.log_metrics(dict(scalars), step=step)

    def sync(self) -> None:
        """Do nothing: mlflow sends by itself."""

    def close(self) -> None:
        self._mlflow.end_run()
