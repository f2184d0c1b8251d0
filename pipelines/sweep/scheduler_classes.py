"""Schedulers of Ray Tune by the names of `--scheduler`."""

from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import (
    SCHEDULER_IMPORT,
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
)

from pipelines.sweep.options import check_options


def check_scheduler(name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that the scheduler of this name does not take."""
    if options:
        check_options("--scheduler-options", options, scheduler_class(name))


def scheduler_class(name: str) -> Any:
    """Return the class of Tune; ImportError where it needs a package that is not installed."""
    classes: dict[str, Any] = {
        "fifo": FIFOScheduler, "asha": AsyncHyperBandScheduler, "median": MedianStoppingRule,
        "hyperband": HyperBandScheduler, "pbt": PopulationBasedTraining,
    }  # fmt: skip
    if name in classes:
        return classes[name]
    load: Any = SCHEDULER_IMPORT[name]  # pb2, whose packages need not be installed
    return load()
