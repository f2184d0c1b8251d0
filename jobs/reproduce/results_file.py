"""Finished trials in, TO/results.json out, and back: what a run that goes on must not repeat."""

import json
from collections.abc import Sequence
from typing import Any

from jobs.bench.provenance import commit, hardware, versions
from xmodal import storage
from xmodal.errors import ConfigError

FILE = "results.json"
Found = dict[str, Any]  # by `key`


def known(to: str, settings: dict[str, Any]) -> Found:
    """Trials that are there; ConfigError where they were made with other settings."""
    try:
        stored = json.loads(storage.read(storage.join(to, FILE)))
    except storage.NotFound:
        return {}
    if stored["settings"] != settings:
        raise ConfigError(f"{to} holds results of {stored['settings']}: repeat these, or give another folder with --to")
    return stored["trials"]


def key(arm: str, seed: int) -> str:
    return f"{arm}/{seed}"


def missing(asked: Sequence[tuple[str, int]], done: Found) -> list[tuple[str, int]]:
    """Those of the arms and seeds that are not there."""
    return [(arm, seed) for arm, seed in asked if key(arm, seed) not in done]


def store(to: str, name: str, settings: dict[str, Any], trials: Found) -> None:
    made = {"commit": commit(), "hardware": hardware(), "versions": versions()}
    record = {"experiment": name, "settings": settings, **made, "trials": trials}
    storage.write(storage.join(to, FILE), (json.dumps(record, indent=1) + "\n").encode())
