"""Reject output paths that Ray deletes when a submitted job ends."""

from pipelines.runtime import ray_compat
from xmodal import storage
from xmodal.errors import ConfigError


def check_output(uri: str, flag: str) -> None:
    """Raise ConfigError for an output path that would be deleted, where this process is a submitted job."""
    if in_submitted_job():
        check_survives_job(uri, flag)


def check_survives_job(uri: str, flag: str) -> None:
    """Raise ConfigError for a relative path: a submitted job would write it into its copy of the code, on one node."""
    if storage.absolute(uri) != uri:
        raise ConfigError(
            f"{flag} {uri} is relative, and a submitted job works in a copy of its directory that Ray deletes: "
            f"give s3://bucket/{uri.strip('./')} or an absolute path that every node sees"
        )


def in_submitted_job() -> bool:
    """Return whether this process is a submitted job, which works in a copy of its directory."""
    return ray_compat.in_copy_of_working_dir()
