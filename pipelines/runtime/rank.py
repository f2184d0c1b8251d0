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
    host_group: dist.ProcessGroup | None = None
    """group for values of the host: batches are fetched in a thread, whose collectives must not meet those of a step"""

    @classmethod
    def here(cls) -> "Rank":
        """Return this Ray Train worker's rank; on a CPU it computes with one thread, since ranks share the cores."""
        context = ray.train.get_context()
        device = ray.train.torch.get_device()
        if device.type == "cpu":
            torch.set_num_threads(1)
        host_group = dist.new_group(backend="gloo") if context.get_world_size() > 1 else None
        return cls(context.get_world_rank(), context.get_world_size(), device, host_group)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.index == 0

    def share(self, value: object) -> Any:
        """Return rank 0's value on every rank. A value with references to Ray's objects travels with them."""
        if self.world_size == 1:
            return value
        sent: list[Any] = [ray.cloudpickle.dumps(value) if self.first else None]
        dist.broadcast_object_list(sent, src=0, group=self.host_group)
        return ray.cloudpickle.loads(sent[0])

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the values of all ranks joined, on every rank, in the order of the ranks."""
        if self.world_size == 1:
            return values
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, values)
        return [value for part in parts for value in part]
