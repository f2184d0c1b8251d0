"""A storage URI, a name and a configuration in; a new run's directory, or the one to continue, out."""

import json
import re
import uuid
from collections.abc import Collection, Mapping
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
        """A UUID: checkpoints of another run are told apart by it, whatever their names."""
        return self.record["id"]

    @property
    def name(self) -> str:
        return self.record["name"]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record["config"]

    @property
    def corpora(self) -> Mapping[str, str]:
        """Fingerprint of each corpus by name."""
        return self.record["corpora"]

    @property
    def checkpoints_uri(self) -> str:
        return storage.join(self.uri, "checkpoints")


def create_run(
    storage_uri: str,
    name: str,
    *,
    config: Any,
    corpora: Mapping[str, str] | None = None,
    options: StorageOptions = DEFAULT,
) -> Run:
    """Start a run's directory and record what it was asked to do; ConfigError if anything is there already.

    `config` is a dataclass or nested plain values, without secrets; `corpora` the fingerprint of each corpus.
    """
    uri = check_new(storage_uri, name, options=options)
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


def check_new(storage_uri: str, name: str, *, options: StorageOptions = DEFAULT) -> str:
    """The URI of a run that does not exist yet; ConfigError if anything is there."""
    uri = storage.join(storage_uri, check_name(name))
    if storage.exists(uri, options=options):
        raise ConfigError(
            f"the run {name!r} exists already in {storage_uri}; --resume continues it, another --name starts anew"
        )
    return uri


def open_run(
    storage_uri: str,
    name: str,
    *,
    config: Any = None,
    corpora: Mapping[str, str] | None = None,
    may_change: Collection[str] = (),
    options: StorageOptions = DEFAULT,
) -> Run:
    """The run of that name; with `config`, to continue it, and the continuation is recorded.

    ConfigError if there is none (with the nearest name), or if `config` or `corpora` differ from what is recorded in
    any field but those of `may_change` (dotted names; a table's name allows all its fields). The fields that did
    change are kept in the record's `resumes`; `config` becomes the present one.
    """
    uri = storage.join(storage_uri, check_name(name))
    record = _read(uri, storage_uri, name, options)
    run = Run(uri=uri, record=record, options=options)
    if config is None:
        return run
    _refuse_other_corpora(name, record["corpora"], dict(corpora or {}))
    changed = check_same_config(run, config, may_change=may_change)
    resume = {"at": _now(), "changed": {key: list(pair) for key, pair in changed.items()}, "provenance": provenance()}
    record = {**record, "config": to_plain(config), "resumes": [*record["resumes"], resume]}
    _write(uri, record, options)
    return Run(uri=uri, record=record, options=options)


def check_name(name: str) -> str:
    """`name` if it can be a directory's name everywhere; ConfigError with a name that can otherwise."""
    if _NAME.fullmatch(name) and not name.endswith("."):
        return name
    mended = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "run-1"
    raise ConfigError(
        f"{name!r} cannot name a run: use up to 100 letters, digits, '.', '_' and '-', the first a letter or digit, "
        f"for example {mended!r}"
    )


def run_names(storage_uri: str, *, options: StorageOptions = DEFAULT) -> list[str]:
    """The names of all runs in `storage_uri`, sorted."""
    place = storage_uri.rstrip("/")
    try:
        entries = storage.list_files(place, options=options)
    except NotFound:
        return []
    paths = (entry.uri.removeprefix(f"{place}/").split("/") for entry in entries)
    return sorted(path[0] for path in paths if len(path) == 2 and path[1] == RECORD)


def _read(uri: str, storage_uri: str, name: str, options: StorageOptions) -> dict[str, Any]:
    try:
        record = json.loads(storage.read(storage.join(uri, RECORD), options=options))
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


def _write(uri: str, record: Mapping[str, Any], options: StorageOptions) -> None:
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    storage.write(storage.join(uri, RECORD), text.encode("utf-8", "backslashreplace"), options=options)


def check_same_config(run: Run, config: Any, *, may_change: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The fields in which `config` differs from the run's, {name: (old, new)}; ConfigError for others than may."""
    changed = differences(run.config, to_plain(config))
    allowed = frozenset(may_change)
    refused = [
        f"{key} is {old!r} there and {new!r} here" for key, (old, new) in changed.items() if not is_within(key, allowed)
    ]
    if refused:
        raise ConfigError(
            f"the run {run.name!r} was started with another configuration: {'; '.join(refused)}. "
            "Resume it with the recorded values, or start anew under another --name"
        )
    return changed


def _refuse_other_corpora(name: str, recorded: dict[str, str], given: dict[str, str]) -> None:
    changed = differences(recorded, given)
    if changed:
        listed = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in changed.items())
        raise ConfigError(
            f"the corpora of the run {name!r} have changed, so its order of rows cannot be continued (fingerprints: "
            f"{listed}). Restore the corpora, or start anew under another --name"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
