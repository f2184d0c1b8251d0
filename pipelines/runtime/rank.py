"""One rank of a Ray Train worker group: its index, its device, and values shared between ranks."""

from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist


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
        """Return rank 0's value on every rank. A value with references to Ray's objects travels with them."""
        if self.world_size == 1:
            return value
        sent = [ray.cloudpickle.dumps(value) if self.first else None]
        dist.broadcast_object_list(sent, src=0, device=self.device)
        return ray.cloudpickle.loads(sent[0])

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the values of all ranks joined, on every rank, in the order of the ranks."""
        if self.world_size == 1:
            return values
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]
