"""How much memory a piece of work takes: a call goes in, the rise of this process's resident memory comes out."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


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
