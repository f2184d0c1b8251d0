"""Schedulers of Ray Tune by the names of `--scheduler`."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ray.tune.schedulers import (
    SCHEDULER_IMPORT,
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
)

from pipelines.sweep.options import check_options
from xmodal.errors import ConfigError


def check_scheduler(name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for a missing package, or an option that the scheduler of this name does not take."""
    if name == "pb2" and find_spec("sklearn") is None:
        raise ConfigError("--scheduler pb2: pip install scikit-learn, or take --scheduler pbt")
    if options:
        check_options("--scheduler-options", options, scheduler_class(name))


def scheduler_class(name: str) -> Any:
    """Return the class of Tune."""
    classes: dict[str, Any] = {
        "fifo": FIFOScheduler, "asha": AsyncHyperBandScheduler, "median": MedianStoppingRule,
        "pbt": PopulationBasedTraining,
    }  # fmt: skip
    if name in classes:
        return classes[name]
    load: Any = SCHEDULER_IMPORT[name]  # pb2, whose packages need not be installed
    return load()
