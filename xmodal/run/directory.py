"""Creates and opens the directory of a run, and checks that a resumed run has the same configuration and corpora."""

import json
import re
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from xmodal import storage
from xmodal.errors import ConfigError, nearest
from xmodal.run.plain_config import differences, is_within, to_plain
from xmodal.run.provenance import provenance
from xmodal.storage import NotFound, StorageOptions

DEFAULT = StorageOptions()
RECORD = "run.json"
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's directory. `record` is `run.json`: id, name, config, corpora, provenance, created, resumes."""

    uri: str
    record: Mapping[str, Any] = field(repr=False)
    options: StorageOptions = DEFAULT

    @property
    def id(self) -> str:
        """Return the UUID, which distinguishes runs of the same name and their checkpoints."""
        return str(self.record["id"])

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.record["config"]
        return config

    @property
    def corpora(self) -> Mapping[str, str]:
        """Return the fingerprint of each corpus by name."""
        corpora: Mapping[str, str] = self.record["corpora"]
        return corpora

    @property
    def checkpoints_uri(self) -> str:
        return storage.join(self.uri, "checkpoints")


def create_run(
    storage_uri: str,
    name: str,
    *,
    config: object,
    corpora: Mapping[str, str] | None = None,
    options: StorageOptions = DEFAULT,
) -> Run:
    """Create the directory of a run with its record; ConfigError if anything is there already.

    `config` is a dataclass or nested plain values, without secrets; `corpora` has the fingerprint of each corpus.
    """
    uri = new_run_uri(storage_uri, name, options=options)
    record = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "name": name,
        "created": _now(),
        "config": to_plain(config),
        "corpora": dict(corpora or {}),
        "provenance": provenance(),
        "resumes": [],
    }
    _write(uri, record, options)
    return Run(uri=uri, record=record, options=options)


def new_run_uri(storage_uri: str, name: str, *, options: StorageOptions = DEFAULT) -> str:
    """Return the URI for a new run; ConfigError if anything is there already."""
    uri = storage.join(storage_uri, check_run_name(name))
    if storage.exists(uri, options=options):
        raise ConfigError(
            f"the run {name!r} exists already in {storage_uri}; --resume continues it, another --name starts anew"
        )
    return uri


def open_run(
    storage_uri: str,
    name: str,
    *,
    config: object = None,
    corpora: Mapping[str, str] | None = None,
    may_change: Collection[str] = (),
    upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    options: StorageOptions = DEFAULT,
) -> Run:
    """Open the run of that name; with `config` it is resumed, and the resume is recorded.

    `upgrade` converts the recorded configuration to today's field names before it is compared.

    Raises ConfigError if there is no such run (with the nearest name), or if `corpora` or `config` differ from the
    record in other fields than `may_change` (dotted names; the name of a table allows all its fields). The fields that
    changed are appended to the record's `resumes`, and `config` replaces the recorded one.
    """
    uri = storage.join(storage_uri, check_run_name(name))
    record = _read(uri, storage_uri, name, options)
    record["config"] = upgrade(record["config"])
    run = Run(uri=uri, record=record, options=options)
    if config is None:
        return run
    _raise_if_corpora_changed(name, record["corpora"], dict(corpora or {}))
    changes = check_same_config(run, config, may_change=may_change)
    resume = {"at": _now(), "changed": {key: list(pair) for key, pair in changes.items()}, "provenance": provenance()}
    record = {**record, "config": to_plain(config), "resumes": [*record["resumes"], resume]}
    _write(uri, record, options)
    return Run(uri=uri, record=record, options=options)


def check_run_name(name: str) -> str:
    """Return `name` if it is a valid directory name everywhere; otherwise ConfigError with a valid one.

    >>> check_run_name("vit-b-32.seed-1")
    'vit-b-32.seed-1'
    """
    if _NAME.fullmatch(name) and not name.endswith("."):
        return name
    valid_name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "run-1"
    raise ConfigError(
        f"{name!r} cannot name a run: use up to 100 letters, digits, '.', '_' and '-', the first a letter or digit, "
        f"for example {valid_name!r}"
    )


def run_names(storage_uri: str, *, options: StorageOptions = DEFAULT) -> list[str]:
    """Return the names of all runs in `storage_uri`, sorted."""
    parent = storage_uri.rstrip("/")
    try:
        entries = storage.list_files(parent, options=options)
    except NotFound:
        return []
    paths = (entry.uri.removeprefix(f"{parent}/").split("/") for entry in entries)
    return sorted(path[0] for path in paths if len(path) == 2 and path[1] == RECORD)


def _read(uri: str, storage_uri: str, name: str, options: StorageOptions) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(storage.read(storage.join(uri, RECORD), options=options))
    except NotFound as error:
        raise ConfigError(
            f"there is no run {name!r} in {storage_uri}: {nearest(name, run_names(storage_uri, options=options))}; "
            "leave --resume out to start it"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{uri}/{RECORD} is damaged ({error}); start anew under another --name") from error
    if record.get("format") != FORMAT:
        raise ConfigError(f"{uri}/{RECORD} has format {record.get('format')}; this xmodal reads format {FORMAT}")
    return record


def _write(uri: str, record: Mapping[str, object], options: StorageOptions) -> None:
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    storage.write(storage.join(uri, RECORD), text.encode("utf-8", "backslashreplace"), options=options)


def check_same_config(run: Run, config: object, *, may_change: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which `config` differs from the run's, as {name: (old, new)}.

    Raises ConfigError if a field differs that is not in `may_change`.
    """
    changes = differences(run.config, to_plain(config))
    allowed = frozenset(may_change)
    not_allowed = [
        f"{key} is {old!r} there and {new!r} here" for key, (old, new) in changes.items() if not is_within(key, allowed)
    ]
    if not_allowed:
        raise ConfigError(
            f"the run {run.name!r} was started with another configuration: {'; '.join(not_allowed)}. "
            "Resume it with the recorded values, or start anew under another --name"
        )
    return changes


def _raise_if_corpora_changed(name: str, recorded: dict[str, str], given: dict[str, str]) -> None:
    changes = differences(recorded, given)
    if changes:
        fingerprints = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in changes.items())
        raise ConfigError(
            f"the corpora of the run {name!r} have changed, so its order of rows cannot be continued (fingerprints: "
            f"{fingerprints}). Restore the corpora, or start anew under another --name"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
