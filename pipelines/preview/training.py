"""What the previews of all training stages contain: the workers of a run and the memory of its model."""

import os
from collections.abc import Mapping

import torch

from pipelines.config.resources import ResourceConfig
from pipelines.preview.locations import cluster_address, ray_in_words
from pipelines.runtime.cluster import CPUS_PER_READ, Cluster, resources_per_worker

BYTES_PER_PARAMETER = 16  # in float32: its value, its gradient and two moments


def preview_resources(config: ResourceConfig, batch_size: int) -> dict[str, object]:
    """Return the numbers of workers that divide the batch, what each reserves, and what is left to read."""
    address = cluster_address(config.address)
    local = address is None
    available = {"CPU": (os.cpu_count() or 1) + 1.0, "GPU": float(torch.cuda.device_count())}
    share = resources_per_worker(config, available, local=True) if local else _configured_share(config)
    sizes = Cluster(tuple(config.sizes), {}, local).with_valid_world_sizes([batch_size]).sizes
    return {
        "where": ray_in_words(address),
        "workers": list(sizes),
        "per_worker": share,
        "rows_per_worker": [batch_size // size for size in sizes],
        "reading": f"tasks of {CPUS_PER_READ} CPU on all CPUs that the workers leave",
    }


def _configured_share(config: ResourceConfig) -> Mapping[str, object]:
    cpus = "1, or less where the cluster would have none left to read"
    gpus = "1 where the cluster has one for each worker, else 0"
    return {
        "CPU": cpus if config.cpus_per_worker is None else config.cpus_per_worker,
        "GPU": gpus if config.gpus_per_worker is None else config.gpus_per_worker,
    }


def memory_gib(parameters: int) -> float:
    """Return the GiB of weights, gradients and optimizer in one worker, without activations."""
    return round(parameters * BYTES_PER_PARAMETER / 2**30, 3)
