"""Measure the rise of this process's resident memory during a piece of work."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

from xmodal.training.engine.memory import MALLOC_SETTINGS

PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}  # of glibc's mallopt, by variable


def keep_freed_memory() -> None:
    """Make this process's main thread keep freed memory, as training processes do."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, parameter in PARAMETERS.items():
            libc.mallopt(parameter, int(MALLOC_SETTINGS[name]))


def peak_increase(work: Callable[[], object]) -> float:
    """Return the bytes by which the peak of resident memory during the work exceeds that before it."""
    reset_peak()
    before = memory_bytes("VmRSS")
    work()
    return memory_bytes("VmHWM") - before


def reset_peak() -> None:
    """Reset the peak of resident memory to its current value, once freed memory is given back to the system."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # else new work fills freed memory without a rise
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory_bytes(field: str) -> float:
    """Return a field of /proc/self/status in bytes: VmRSS (resident memory) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024
