"""The most memory that a process has held: it rises by what is touched, and never falls."""

import torch

from xmodal.training.memory import peak_memory


def test_it_rises_by_what_is_touched_and_stays() -> None:
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    held = torch.ones(2**28)  # 1 GiB, more than what an earlier test may have freed
    during = peak_memory(cpu)
    del held
    assert during >= max(before, 1.0) and peak_memory(cpu) >= during
