"""A command for a cluster, and the way to its job server."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where a command goes, and as what."""

    command: tuple[str, ...]  # of the shell, e.g. ("python", "-m", "jobs.pretrain", "vit-b-32")
    name: str  # what the submission is called; with -2, -3, ... where that name has been used
    address: str | None = None  # of the job server; None: RAY_API_SERVER_ADDRESS, an http RAY_ADDRESS, else port 8265
    token: str | None = None  # of the cluster; None: as Ray finds it
    working_dir: str = "."  # what the job gets a copy of
    wait: bool = True
