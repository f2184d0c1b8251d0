"""Memory of a training process: allocator settings, and the peak usage."""

import resource

import torch

MALLOC_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_ARENA_MAX": "1"}
"""glibc settings for the environment of a training process on CPU: memory freed by a step is reused by the next.

Without them large tensors return to the system and come back as fresh pages, which takes up to a tenth of a step, and
the heaps of threads (Ray trains in one) hold no more than 64 MiB.
"""


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory of this process in GiB: allocated by torch on a GPU, else resident in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # in KiB on Linux
