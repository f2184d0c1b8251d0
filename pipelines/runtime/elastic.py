"""Build the trainer of a run's worker group: of a fixed number of workers, or of any number in a list.

Ray's own elastic trainer takes any number of workers between two bounds. A global batch can only be shared evenly by
numbers that divide it, so an elastic group here has the largest of these numbers that the cluster has room for. Ray
restarts the whole group at a new size, from the last checkpoint: the batches stay the same, only the rows of each rank
change.
"""

from typing import Any

from ray.train.v2.api.config import ScalingConfig  # what ray.train.ScalingConfig is, for a type checker too
from ray.train.v2.torch.torch_trainer import TorchTrainer

from pipelines.runtime import ray_compat
from pipelines.runtime.cluster import Cluster

RESIZE_CHECK_S = 60.0  # how often a healthy group looks for room to grow


def make_trainer(cluster: Cluster, *arguments: Any, **keywords: Any) -> TorchTrainer:
    """Return the trainer of a worker group on this cluster, of one size or of several; further arguments are Ray's."""
    scaling: dict[str, Any] = {"use_gpu": cluster.use_gpu, "resources_per_worker": cluster.per_worker}
    if not cluster.elastic:
        config = ScalingConfig(num_workers=cluster.sizes[0], **scaling)
        return TorchTrainer(*arguments, scaling_config=config, **keywords)
    config = ScalingConfig(
        num_workers=(cluster.sizes[0], cluster.sizes[-1]), elastic_resize_monitor_interval_s=RESIZE_CHECK_S, **scaling
    )
    return ray_compat.elastic_trainer(cluster.sizes, *arguments, scaling_config=config, **keywords)
