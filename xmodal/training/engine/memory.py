"""The memory of a process that trains: how it is kept between steps, and the most that it has held."""

import resource

import torch

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_ARENA_MAX": "1"}
"""For glibc, in the environment that a training process starts with: what a step frees on a CPU is there for the next.

Else large tensors go back to the system and come as fresh pages again and again, up to a tenth of a step; and the
heaps of threads (Ray trains in one) hold no more than 64 MiB.
"""


def peak_memory(device: torch.device) -> float:
    """GiB since the process began: allocated by torch on a GPU, else the resident memory of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
