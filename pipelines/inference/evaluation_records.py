"""Store what was measured of a checkpoint on a corpus, as JSON in its run."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.config.diagnose import DiagnoseConfig
from pipelines.config.evaluate import EvaluateConfig
from xmodal import storage
from xmodal.checkpoint import CheckpointRef
from xmodal.errors import ConfigError
from xmodal.metrics.retrieval import RetrievalResult
from xmodal.run.provenance import provenance
from xmodal.storage import NotFound, StorageOptions


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of one checkpoint on one corpus, by flat names: their values, intervals, and values of chance.

    `searches` are the results behind the retrieval metrics, `image_to_text` and so on; none where retrieval was off.
    """

    checkpoint: str
    step: int
    corpus: str
    fingerprint: str
    rows: int
    skipped: int  # rows that could not be read
    searches: Mapping[str, RetrievalResult] = field(default_factory=dict)
    metrics: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    chance: Mapping[str, float]
    settings: Mapping[str, Any]
    result_uri: str | None = None  # of the JSON; before it is stored, the folder that it goes to

    def as_json(self) -> dict[str, object]:
        """Return plain values, as they are stored."""
        names = ("checkpoint", "step", "corpus", "fingerprint", "rows", "skipped", "metrics", "interval", "chance")
        return {
            **{name: getattr(self, name) for name in names},
            "settings": dict(self.settings),
            "versions": provenance()["packages"],
        }


def result_folder(config: EvaluateConfig | DiagnoseConfig, ref: CheckpointRef, name: str = "evaluations") -> str | None:
    """Return the folder that a result is stored in: `config.to`, or `name` in the run; None where it is not stored.

    Raises before anything is computed where the folder cannot be written.
    """
    if not config.save:
        return None
    folder = config.to
    if folder is None:
        run, inside, _ = ref.uri.rstrip("/").rpartition("/checkpoints/")
        if not inside:
            raise ConfigError(
                f"{ref.uri} lies in no run (RUN/checkpoints/...), so the result has no folder: name a folder with "
                "--to, or give --no-save"
            )
        folder = storage.join(run, name)
    storage.check(folder, writable=True, options=config.storage)
    return folder


def store_evaluation(config: EvaluateConfig, result: Evaluation) -> Evaluation:
    """Store a result in its folder and return it with its URI; that of another corpus of this name is not replaced."""
    if result.result_uri is None:
        return result
    folder = result.result_uri
    name = config.name or _file_name(config, result)
    uri = storage.join(folder, f"{name}.json")
    if config.name is None and _fingerprint_at(uri, config.storage) not in (None, result.fingerprint):
        uri = storage.join(folder, f"{name}-{result.fingerprint[:6]}.json")
    text = json.dumps(result.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(uri, text.encode("utf-8", "backslashreplace"), options=config.storage)
    return Evaluation(**{**vars(result), "result_uri": uri})


def _file_name(config: EvaluateConfig, result: Evaluation) -> str:
    """Return a name from corpus, step and tasks: a result of other tasks is not replaced."""
    corpus = re.sub(r"[^A-Za-z0-9._-]+", "-", result.corpus.rstrip("/").rpartition("/")[2]).strip("-._") or "corpus"
    tasks = ("-and-classes" if config.retrieval else "-classes") if config.label else ""
    return f"{corpus[:80]}-step-{result.step}{tasks}"


def _fingerprint_at(uri: str, options: StorageOptions) -> str | None:
    try:
        return json.loads(storage.read(uri, options=options)).get("fingerprint")
    except (NotFound, ValueError, AttributeError):
        return None
