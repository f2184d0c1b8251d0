"""The rise of this process's resident memory while a piece of work is done; and memory that is kept as in training."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

from xmodal.training.engine.memory import ALLOCATOR

PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}  # glibc's mallopt, of these variables


def keep_freed() -> None:
    """From now on this process's main thread keeps what it frees, as training processes do."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, parameter in PARAMETERS.items():
            libc.mallopt(parameter, int(ALLOCATOR[name]))


def rise(work: Callable[[], object]) -> float:
    """Bytes above what is there before the call, at its peak; what `work` makes itself counts."""
    forget_peak()
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def forget_peak() -> None:
    """The high-water mark starts again from here, with what earlier work has freed given back to the system."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc keeps freed memory, and new work would fill it unseen
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> float:
    """Bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024
