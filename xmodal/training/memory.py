"""A device in, the most memory that this process has held for it out."""

import resource

import torch


def peak_memory(device: torch.device) -> float:
    """GiB since the process began: allocated by torch on a GPU, else the resident memory of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
