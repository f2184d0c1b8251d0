"""Peak memory rises by what a process touches; with the malloc settings freed memory is reused by the next step."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from xmodal.training.engine.memory import MALLOC_SETTINGS, peak_memory_gib

STEPS = """
import resource, threading, torch
def steps():
    for number in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(size << 18) for size in (1, 9, 40, 80)]  # MiB
        del tensors
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
thread = threading.Thread(target=steps)  # where Ray runs a train function
thread.start()
thread.join()
print(faults[-1])
"""


def test_peak_memory_rises_and_stays_after_release() -> None:
    cpu = torch.device("cpu")
    before = peak_memory_gib(cpu)
    allocated = torch.ones(2**28)  # 1 GiB, more than what an earlier test may have freed
    during = peak_memory_gib(cpu)
    del allocated
    assert during >= max(before, 1.0) and peak_memory_gib(cpu) >= during


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these settings are glibc's")
def test_memory_freed_by_a_step_is_reused_by_the_next() -> None:
    """Counts page faults: 130 MiB of fresh pages would cause tens of thousands of them."""
    environment = {name: x for name, x in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    run = [sys.executable, "-c", STEPS]
    default, with_settings = (
        int(subprocess.run(run, env=environment | more, check=True, capture_output=True).stdout)
        for more in ({}, MALLOC_SETTINGS)
    )
    assert with_settings < 100 < default
