"""The place of a result in; a refusal out where nothing would be left of it."""

import os

from xmodal import storage
from xmodal.errors import ConfigError


def check_output(uri: str, flag: str) -> None:
    """`check_lasting`, where this process is a submitted job."""
    if in_a_copy():
        check_lasting(uri, flag)


def check_lasting(uri: str, flag: str) -> None:
    """ConfigError for a place that a job's copy of the code would hold, which Ray deletes, and on one node only."""
    if storage.absolute(uri) != uri:
        raise ConfigError(
            f"{flag} {uri} is relative, and a submitted job works in a copy of its directory that Ray deletes: "
            f"give s3://bucket/{uri.strip('./')} or an absolute path that every node sees"
        )


def in_a_copy() -> bool:
    """Whether this process works in the copy of a directory that Ray made for a job."""
    return "/runtime_resources/" in os.getcwd()
