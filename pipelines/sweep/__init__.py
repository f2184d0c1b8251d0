"""A run and ranges of its fields in; trials across the cluster, the configuration that is chosen, and a page out."""

from pipelines.config.sweep import Config
from pipelines.sweep.conductor import News, Result, run

__all__ = ["Config", "News", "Result", "run"]
