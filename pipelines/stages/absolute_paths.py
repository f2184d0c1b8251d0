"""Make the paths of a configuration absolute: the ranks of a run work in a directory of Ray's."""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.config.data import DataConfig
from pipelines.config.run import RunOptions
from xmodal import storage


def data_with_absolute_paths(data: DataConfig) -> DataConfig:
    """Return the configuration of the same corpora by absolute paths."""
    return replace(data, corpus=absolute_uris(data.corpus), index=absolute_uri(data.index))


def run_with_absolute_path(run: RunOptions) -> RunOptions:
    """Return the same run by the absolute path of its folder."""
    return replace(run, runs=storage.absolute(run.runs))


def absolute_uris(uris: Sequence[str]) -> tuple[str, ...]:
    """Return the same locations by absolute paths."""
    return tuple(map(storage.absolute, uris))


def absolute_uri(uri: str | None) -> str | None:
    """Return the same location by an absolute path; None where there is none."""
    return storage.absolute(uri) if uri else uri
