"""A run and ranges of its fields in; trials across the cluster, the configuration that is chosen, and a page out."""

from pipelines.config.sweep import SweepConfig
from pipelines.sweep.conductor import News, Result, run

__all__ = ["News", "Result", "SweepConfig", "run"]
