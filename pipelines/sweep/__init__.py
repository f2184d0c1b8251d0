"""Search over fields of a run's configuration, carried by `ray.tune.Tuner` across the cluster.

`run` is the engine of `jobs.sweep`; `xmodal_trainable` and `interval` are for a Tuner of one's own.
"""

from pipelines.sweep.engine import SweepResult, run
from pipelines.sweep.trainable import interval, xmodal_trainable

__all__ = ["SweepResult", "interval", "run", "xmodal_trainable"]
