"""Checkpoint of a classifier + labelled clips -> gradients, flatness, what each encoder knows, as JSON in the run."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.config.diagnose import Config
from pipelines.inference import evaluate_classifier
from pipelines.inference.evaluate_classifier import Trained
from pipelines.inference.evaluation_records import place_of
from xmodal import checkpoint, storage
from xmodal.batch import Batch
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.stream.order import Plan
from xmodal.errors import ConfigError
from xmodal.metrics.classifier_diagnosis import diagnose
from xmodal.run.provenance import provenance

FOLDER = "diagnoses"
Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The diagnosis as it is stored, and where (None: nowhere)."""

    record: dict[str, Any]
    stored: str | None


def run(config: Config, notify: Notify = lambda message: None) -> Result:
    """Diagnose in this process. ConfigError for a checkpoint that is no classifier; the run itself is not touched."""
    for uri in filter(None, (config.checkpoint, config.corpus, config.held_out)):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    found = checkpoint.resolve(config.checkpoint, options=config.storage)
    if not evaluate_classifier.is_classifier(found, config.storage):
        raise ConfigError(f"{config.checkpoint} is no classifier: a diagnosis is of the two losses of a jobs.adapt run")
    folder = place_of(config, found, FOLDER)
    began = time.perf_counter()
    trained = evaluate_classifier.load(found, config.storage)
    corpora = {name: _open(config, uri) for name, uri in (("corpus", config.corpus), ("held_out", config.held_out))}
    corpus, held_out = corpora["corpus"], corpora["held_out"]
    assert corpus is not None
    notify(f"reading up to {config.rows:,} rows of {config.corpus}")
    batches = _read(config, trained, corpus, whole=True)
    judging = [] if held_out is None else _read(config, trained, held_out, whole=False)
    balance = trained.config.get("balance") or {}
    record = {
        "checkpoint": found.uri, "step": found.step, "corpus": storage.absolute(config.corpus),
        "fingerprint": corpus.fingerprint, "held_out": config.held_out and storage.absolute(config.held_out),
        "rows": sum(int(batch.valid.sum()) for batch in batches), "batch_size": config.batch_size,
        "method": balance.get("method"), "space": balance.get("space"),
        **diagnose(
            trained.model, batches, held_out=judging, heads=balance.get("method") != "joint",
            gradient_batches=config.batches, flat_batches=config.flat_batches, directions=config.directions,
            radius=config.radius, points=config.points, iterations=config.iterations, seed=config.seed, notify=notify,
        ),
    }  # fmt: skip
    record |= {"seconds": time.perf_counter() - began, "versions": provenance()["packages"]}
    return Result(record=record, stored=_store(config, record, folder))


def _open(config: Config, uri: str | None) -> Corpus | None:
    return None if uri is None else open_corpus(uri, index=config.index, options=config.storage)


def _read(config: Config, trained: Trained, corpus: Corpus, *, whole: bool) -> list[Batch]:
    """Mini-batches of random rows, on the device; `whole`: only full ones, ConfigError where there are not two."""
    plan = Plan(corpus.extents.rows, corpus.extents.shard, config.seed, config.batch_size)
    rows = min(config.rows, corpus.rows)
    steps = rows // config.batch_size if whole else -(-rows // config.batch_size)
    if whole and steps < 2:
        raise ConfigError(
            f"{corpus.uri} has {corpus.rows:,} rows, fewer than two mini-batches of {config.batch_size}: "
            "lower --batch-size"
        )
    recipe = trained.recipe(corpus, config.fields)
    device = next(trained.model.parameters()).device
    return [batch.to(device) for batch in evaluate_classifier.batches(corpus, recipe, plan, steps)]


def _store(config: Config, record: dict[str, Any], folder: str | None) -> str | None:
    """One file for a corpus and a step: a second look replaces the first."""
    if folder is None:
        return None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", record["corpus"].rstrip("/").rpartition("/")[2]).strip("-._") or "corpus"
    uri = storage.join(folder, f"{name[:80]}-{record['fingerprint'][:6]}-step-{record['step']}.json")
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(uri, text.encode("utf-8", "backslashreplace"), options=config.storage)
    return uri
