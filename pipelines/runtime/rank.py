"""One rank of a Ray Train worker group: its index, its device, and values shared between ranks."""

from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero


@dataclass(frozen=True)
class Rank:
    """Rank `index` of `world_size`, with the device that it computes on."""

    index: int
    world_size: int
    device: torch.device

    @classmethod
    def here(cls) -> "Rank":
        """Return this Ray Train worker's rank; on a CPU it computes with one thread, since ranks share the cores."""
        context = ray.train.get_context()
        device = ray.train.torch.get_device()
        if device.type == "cpu":
            torch.set_num_threads(1)
        return cls(context.get_world_rank(), context.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.index == 0

    def share(self, value: object) -> Any:
        """Return rank 0's value on every rank. It travels through the object store: a broadcast is meant for 1 kB."""
        reference = [ray.put(value)] if self.first else None
        (reference,) = broadcast_from_rank_zero(reference)
        return ray.get(reference)

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the values of all ranks joined, on every rank, in the order of the ranks."""
        if self.world_size == 1:
            return values
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]
