"""Cells and facts that every page of an experiment shows in the same form."""

from collections.abc import Sequence
from importlib import metadata

from jobs.bench.machine import code_commit, hardware
from jobs.reproduce.seed_statistics import mean_and_sd

EMPTY = "\u2013"


def percent_cell(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds of shares in [0, 1], in percent; a dash without values."""
    if not values:
        return EMPTY
    average, sd = mean_and_sd(values)
    return f"{100 * average:.1f} ± {100 * sd:.1f}"


def provenance_facts() -> list[tuple[str, str]]:
    """Return commit, hardware and torch version of this process, each with its title."""
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    return [("Commit", code_commit()), ("Hardware", machine), ("Torch", metadata.version("torch"))]
