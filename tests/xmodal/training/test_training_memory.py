"""The most memory that a process has held rises by what is touched; what a training process frees stays with it."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from xmodal.training.engine.memory import ALLOCATOR, peak_memory

STEPS = """
import resource, threading, torch
def steps():
    for number in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [torch.ones(size << 18) for size in (1, 9, 40, 80)]  # MiB
        del kept
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
thread = threading.Thread(target=steps)  # where Ray runs a train function
thread.start()
thread.join()
print(faults[-1])
"""


def test_it_rises_by_what_is_touched_and_stays() -> None:
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    held = torch.ones(2**28)  # 1 GiB, more than what an earlier test may have freed
    during = peak_memory(cpu)
    del held
    assert during >= max(before, 1.0) and peak_memory(cpu) >= during


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these settings are glibc's")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    """Counted in page faults, of which 130 MiB of fresh pages would be tens of thousands."""
    environment = {name: x for name, x in os.environ.items() if not name.startswith(("MALLOC_", "THP_"))}
    run = [sys.executable, "-c", STEPS]
    usual, kept = (
        int(subprocess.run(run, env=environment | more, check=True, capture_output=True).stdout)
        for more in ({}, ALLOCATOR)
    )
    assert kept < 100 < usual
