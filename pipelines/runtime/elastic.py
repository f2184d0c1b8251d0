"""A train function and the sizes its worker group may have in; a trainer that grows and shrinks between them out.

Ray's own elastic trainer takes any number of workers of a range. A global batch can only be shared evenly by numbers
that divide it, so here the number is the largest of these that the cluster has room for. Ray restarts the whole group
at a new size, from the last checkpoint: the batches stay the same, only who holds which rows changes.
"""

from collections.abc import Sequence
from typing import Any

from ray.train import Result
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig  # what ray.train.ScalingConfig is, for a type checker too
from ray.train.v2.torch.torch_trainer import TorchTrainer

from pipelines.runtime.cluster import Cluster

LOOK_EVERY_S = 60.0  # how often a healthy group looks for room to grow


class FittingSizes(ElasticScalingPolicy):
    """Ray's policy with its count of possible workers brought down to a size that fits."""

    def __init__(self, scaling_config: ScalingConfig, sizes: Sequence[int]) -> None:
        super().__init__(scaling_config)
        self._sizes = tuple(sizes)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= possible), default=0)


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer whose groups have one of `sizes`."""

    def __init__(self, *arguments: Any, sizes: Sequence[int], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._sizes = tuple(sizes)

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        config: Any = self.scaling_config
        return super()._initialize_and_run_controller(
            **controller | {"scaling_policy": FittingSizes(config, self._sizes)}
        )


def trainer(cluster: Cluster, *arguments: Any, **keywords: Any) -> TorchTrainer:
    """The trainer of a worker group on this cluster, of one size or of several."""
    scaling: dict[str, Any] = {"use_gpu": cluster.use_gpu, "resources_per_worker": cluster.per_worker}
    if not cluster.elastic:
        config = ScalingConfig(num_workers=cluster.sizes[0], **scaling)
        return TorchTrainer(*arguments, scaling_config=config, **keywords)
    config = ScalingConfig(
        num_workers=(cluster.sizes[0], cluster.sizes[-1]), elastic_resize_monitor_interval_s=LOOK_EVERY_S, **scaling
    )
    return ElasticTrainer(*arguments, sizes=cluster.sizes, scaling_config=config, **keywords)
