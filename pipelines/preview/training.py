"""What the previews of both stages of training share: the workers of a run and the memory of its model."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.config.resources import Resources
from pipelines.preview.locations import address_of, where
from pipelines.runtime.cluster import CPUS_PER_READ, Cluster, share_of

TRAINING_BYTES = 16  # a parameter in float32: its value, its gradient and two moments


def resources(asked: Resources, batch_size: int) -> dict[str, Any]:
    """The workers that divide the batch, what each holds, and who reads."""
    address = address_of(asked.address)
    local = address is None
    have = {"CPU": (os.cpu_count() or 1) + 1.0, "GPU": float(torch.cuda.device_count())}
    share = share_of(asked, have, local=True) if local else _asked(asked)
    sizes = Cluster(tuple(asked.sizes), {}, local).fitting([batch_size]).sizes
    return {
        "where": where(address),
        "workers": list(sizes),
        "per_worker": share,
        "rows_per_worker": [batch_size // size for size in sizes],
        "reading": f"tasks of {CPUS_PER_READ} CPU on all CPUs that the workers leave",
    }


def _asked(asked: Resources) -> Mapping[str, Any]:
    cpus = "1, or less where the cluster would have none left to read"
    gpus = "1 where the cluster has one for each worker, else 0"
    return {
        "CPU": cpus if asked.cpus_per_worker is None else asked.cpus_per_worker,
        "GPU": gpus if asked.gpus_per_worker is None else asked.gpus_per_worker,
    }


def memory_gib(parameters: int) -> float:
    """Of weights, gradients and optimizer in one worker; activations come on top."""
    return round(parameters * TRAINING_BYTES / 2**30, 3)
