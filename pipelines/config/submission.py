"""Configuration of a submission: a command for a cluster, and the way to its job server."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """A command that is sent to a cluster, and how."""

    command: tuple[str, ...]  # command of the shell, e.g. ("python", "-m", "jobs.pretrain", "vit-b-32")
    name: str  # name of the submission; -2, -3, ... is appended where that name has been used
    address: str | None = None
    """address of the job server; None: RAY_API_SERVER_ADDRESS, an http RAY_ADDRESS, else port
    8265 of this machine"""
    token: str | None = None  # the cluster's token; None: the one that Ray finds
    working_dir: str = "."  # directory whose copy the job gets
    wait: bool = True  # show the log until the job ends
