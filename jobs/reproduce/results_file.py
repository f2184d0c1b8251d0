"""Read and write TO/results.json, the results of finished trials, which a continued run does not train again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.bench.machine import code_commit, hardware, versions
from xmodal import storage
from xmodal.errors import ConfigError

FILE = "results.json"
TrialsByKey = dict[str, Any]  # by `trial_key`


def read_results(to: str, settings: Mapping[str, object]) -> TrialsByKey:
    """Return the finished trials by key; ConfigError where they were trained with other settings."""
    try:
        record = json.loads(storage.read(storage.join(to, FILE)))
    except storage.NotFound:
        return {}
    if record["settings"] != settings:
        raise ConfigError(f"{to} holds results of {record['settings']}: repeat these, or give another folder with --to")
    return record["trials"]


def trial_key(arm: str, seed: int) -> str:
    """Return the key of a trial in results.json."""
    return f"{arm}/{seed}"


def missing_trials(wanted: Sequence[tuple[str, int]], done: TrialsByKey) -> list[tuple[str, int]]:
    """Return those arms and seeds that have no result."""
    return [(arm, seed) for arm, seed in wanted if trial_key(arm, seed) not in done]


def write_results(to: str, name: str, settings: Mapping[str, object], trials: TrialsByKey) -> None:
    """Write all finished trials with settings, commit, hardware and versions."""
    provenance = {"commit": code_commit(), "hardware": hardware(), "versions": versions()}
    record = {"experiment": name, "settings": settings, **provenance, "trials": trials}
    storage.write(storage.join(to, FILE), (json.dumps(record, indent=1) + "\n").encode())
