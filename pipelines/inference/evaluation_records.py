"""What was measured of a checkpoint on a corpus, as JSON beside its run."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.config.diagnose import Config as Diagnose
from pipelines.config.evaluate import Config
from xmodal import storage
from xmodal.checkpoint import Found
from xmodal.errors import ConfigError
from xmodal.metrics.retrieval import Retrieval
from xmodal.run.provenance import provenance
from xmodal.storage import NotFound, StorageOptions


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one checkpoint on one corpus, under flat names: `metrics`, `interval` and `chance` of each.

    `searches` are those behind them, `image_to_text` and so on; none where retrieval was off.
    """

    checkpoint: str
    step: int
    corpus: str
    fingerprint: str
    rows: int
    skipped: int  # rows that could not be read
    searches: Mapping[str, Retrieval] = field(default_factory=dict)
    metrics: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    chance: Mapping[str, float]
    settings: Mapping[str, Any]
    stored: str | None = None  # URI of the JSON

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        names = ("checkpoint", "step", "corpus", "fingerprint", "rows", "skipped", "metrics", "interval", "chance")
        return {
            **{name: getattr(self, name) for name in names},
            "settings": dict(self.settings),
            "versions": provenance()["packages"],
        }


def place_of(config: Config | Diagnose, found: Found, folder: str = "evaluations") -> str | None:
    """The place that a result goes to: `config.to`, or `folder` of the run; None where it is not kept.

    Refuses what cannot be written before anything is computed.
    """
    if not config.save:
        return None
    place = config.to
    if place is None:
        run, inside, _ = found.uri.rstrip("/").rpartition("/checkpoints/")
        if not inside:
            raise ConfigError(
                f"{found.uri} lies in no run (RUN/checkpoints/...), so the result has no place: name a folder with "
                "--to, or give --no-save"
            )
        place = storage.join(run, folder)
    storage.check(place, writable=True, options=config.storage)
    return place


def store(config: Config, result: Evaluation) -> Evaluation:
    """The result with the URI that it is stored at; a result of another corpus of the same name is not replaced."""
    if result.stored is None:
        return result
    folder = result.stored
    name = config.name or _name(config, result)
    uri = storage.join(folder, f"{name}.json")
    if config.name is None and _fingerprint_at(uri, config.storage) not in (None, result.fingerprint):
        uri = storage.join(folder, f"{name}-{result.fingerprint[:6]}.json")
    text = json.dumps(result.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(uri, text.encode("utf-8", "backslashreplace"), options=config.storage)
    return Evaluation(**{**vars(result), "stored": uri})


def _name(config: Config, result: Evaluation) -> str:
    """From corpus, step and tasks: what was measured before of another kind is not replaced."""
    corpus = re.sub(r"[^A-Za-z0-9._-]+", "-", result.corpus.rstrip("/").rpartition("/")[2]).strip("-._") or "corpus"
    tasks = ("-and-classes" if config.retrieval else "-classes") if config.label else ""
    return f"{corpus[:80]}-step-{result.step}{tasks}"


def _fingerprint_at(uri: str, options: StorageOptions) -> str | None:
    try:
        return json.loads(storage.read(uri, options=options)).get("fingerprint")
    except (NotFound, ValueError, AttributeError):
        return None
