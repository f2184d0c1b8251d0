"""A sweep's directory: its record and one JSON file for each trial, written whole at every change, read on a resume.

RUNS/NAME/sweep.json         what was asked, provenance, and at the end what was chosen
          trials/trial-007/  the trial's run, as any other
          records/007.json   what it was asked, reported, and how it ended
          results.parquet, tensorboard/, index.html
"""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipelines.config.old_records import upgrade_sweep
from xmodal import storage
from xmodal.errors import ConfigError
from xmodal.run.plain_config import differences, is_within, to_plain
from xmodal.run.provenance import provenance
from xmodal.search.trial import PAUSED, RUNNING, WAITING, Trial, trial_from_plain
from xmodal.storage import NotFound, StorageOptions

RECORD, RECORDS, TRIALS = "sweep.json", "records", "trials"
MAY_CHANGE = frozenset({
    "sweep.resume", "concurrent", "retries", "silent_s", "regret", "beside", "trials", "finalists", "seeds", "storage",
    "command", "run.resources", "run.checkpoints.restarts", "run.checkpoints.keep", "run.data.cache",
    "run.data.cache_gb",
})  # fmt: skip
SECONDS_PER_WRITE = 2.0  # of a trial that only reported


class TrialStore:
    """The records of all trials of a sweep by number, the same in storage after every change of a status."""

    def __init__(self, uri: str, record: dict[str, Any], trials: dict[int, Trial], options: StorageOptions) -> None:
        self.uri, self.record, self.options = uri, record, options
        self._trials = trials
        self._dirty: set[int] = set()
        self._due = 0.0

    @property
    def trials(self) -> list[Trial]:
        return [self._trials[number] for number in sorted(self._trials)]

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def next_number(self) -> int:
        """Return the number of the next trial."""
        return max(self._trials, default=-1) + 1

    def next_event(self) -> int:
        """Return the order of the next draw or end of a trial, from 1."""
        return 1 + max((max(trial.asked, trial.ended) for trial in self._trials.values()), default=0)

    def add(self, trial: Trial) -> Trial:
        """Add a trial with the next number; return it."""
        numbered = replace(trial, number=self.next_number())
        self._put(numbered)
        return numbered

    def change(self, number: int, **fields: Any) -> Trial:
        """Change fields of a trial and return it; stored at once where its status is among them, else before long."""
        trial = replace(self._trials[number], **fields)
        if "status" in fields:
            self._put(trial)
        else:
            self._trials[number] = trial
            self._dirty.add(number)
        return trial

    def sync(self, *, now: bool = False) -> None:
        """Store what only reported, at most every other second."""
        if not self._dirty or (time.monotonic() < self._due and not now):
            return
        for number in sorted(self._dirty):
            self._put(self._trials[number])
        self._due = time.monotonic() + SECONDS_PER_WRITE

    def write_record(self, **more: Any) -> None:
        self.record |= more
        self._write(RECORD, self.record)

    def _put(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._dirty.discard(trial.number)
        self._write(f"{RECORDS}/{trial.number:03d}.json", trial.to_plain())

    def _write(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        storage.write(storage.join(self.uri, name), text.encode(), options=self.options)


def open_store(config: Any) -> TrialStore:
    """Open the records of a new sweep, or with `resume` of the one that is there: its unfinished trials wait again.

    ConfigError where it exists already without `resume`, does not with it, or was asked for something else.
    """
    uri = storage.join(config.sweep.runs, config.sweep.name)
    known = _read(uri, config.storage)
    plain = to_plain(replace(config, search=tuple(config.search)))
    if known is None:
        if config.sweep.resume:
            raise ConfigError(
                f"there is no sweep {config.sweep.name!r} in {config.sweep.runs}; leave --resume out to start it"
            )
        if storage.exists(uri, options=config.storage):
            raise ConfigError(f"{uri} is something else than a sweep: take another --name")
        record = {"id": uuid.uuid4().hex, "name": config.sweep.name, "config": plain, "provenance": provenance(),
                  "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        store = TrialStore(uri, record, {}, config.storage)
        store.write_record()
        return store
    if not config.sweep.resume:
        raise ConfigError(
            f"the sweep {config.sweep.name!r} exists already in {config.sweep.runs}; --resume continues it, another "
            "--name starts anew"
        )
    refused = [
        f"{name} is {old!r} there and {new!r} here"
        for name, (old, new) in differences(known["config"], plain).items()
        if not is_within(name, MAY_CHANGE)
    ]
    if refused:
        raise ConfigError(
            f"the sweep {config.sweep.name!r} was started with something else: {'; '.join(refused)}. Resume it as it "
            "was, or start anew under another --name"
        )
    trials = {trial.number: _interrupt(trial) for trial in _trials(uri, config.storage)}
    return TrialStore(uri, known, trials, config.storage)


def as_begun(config: Any) -> Any:
    """Return the configuration with the very checkpoint that a resumed sweep began from: there may be a newer one."""
    known = _read(storage.join(config.sweep.runs, config.sweep.name), config.storage) if config.sweep.resume else None
    begun = (known or {}).get("config", {}).get("run", {}).get("start_from")
    asked = getattr(config.run, "start_from", None)
    if not begun or not asked or not begun.startswith(storage.absolute(asked)):
        return config
    return replace(config, run=replace(config.run, start_from=begun))


def read_sweep(runs: str, name: str, options: StorageOptions) -> tuple[dict[str, Any], list[Trial]]:
    """Return the record and the trials of a sweep that exists; ConfigError where there is none."""
    uri = storage.join(runs, name)
    known = _read(uri, options)
    if known is None:
        raise ConfigError(f"there is no sweep {name!r} in {runs} to compare with")
    return known, sorted(_trials(uri, options), key=lambda trial: trial.number)


def _interrupt(trial: Trial) -> Trial:
    """Return the record of a trial as its sweep is resumed: one that was at work or paused waits again."""
    return replace(trial, status=WAITING) if trial.status in (RUNNING, PAUSED) else trial


def _read(uri: str, options: StorageOptions) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(storage.read(storage.join(uri, RECORD), options=options))
    except NotFound:
        return None
    return {**record, "config": upgrade_sweep(record["config"])}


def _trials(uri: str, options: StorageOptions) -> Iterator[Trial]:
    try:
        entries = storage.list_files(storage.join(uri, RECORDS), options=options)
    except NotFound:
        return
    for entry in entries:
        yield trial_from_plain(json.loads(storage.read(entry.uri, options=options)))
