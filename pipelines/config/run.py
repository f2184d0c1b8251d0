"""Name, place and continuation of a run: what every command that makes a run has in common."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the run is stored, and whether an earlier one is continued."""

    name: str  # name of the run: it is stored in the directory RUNS/NAME, and --resume finds it by this name
    runs: str = "runs"  # folder or s3:// URI in which every run gets a directory of its own
    resume: bool = False  # continue the run of this name from its newest checkpoint; otherwise its name must be free
