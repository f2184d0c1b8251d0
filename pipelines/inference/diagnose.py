"""Diagnose a classifier on labelled clips: gradients, flatness, what each encoder knows; as JSON in its run."""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from pipelines.config.diagnose import DiagnoseConfig
from pipelines.inference import evaluate_classifier
from pipelines.inference.evaluation_records import result_folder
from pipelines.models.loaded_classifier import LoadedClassifier, fetch_classifier, is_classifier
from xmodal import checkpoint, storage
from xmodal.batch import Batch
from xmodal.callbacks import Notify
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.stream.order import StreamPlan
from xmodal.errors import ConfigError
from xmodal.metrics.classifier_diagnosis import diagnose
from xmodal.run.provenance import provenance

FOLDER = "diagnoses"


@dataclass(frozen=True, kw_only=True)
class DiagnosisResult:
    """A diagnosis as it is stored, and where (None: nowhere)."""

    record: dict[str, Any]
    result_uri: str | None


def run(config: DiagnoseConfig, notify: Notify = lambda message: None) -> DiagnosisResult:
    """Diagnose in this process. ConfigError for a checkpoint that is no classifier; the run itself is not touched."""
    for uri in filter(None, (config.checkpoint, config.corpus, config.held_out)):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    ref = checkpoint.resolve(config.checkpoint, options=config.storage)
    if not is_classifier(ref, config.storage):
        raise ConfigError(
            f"{config.checkpoint} is no classifier: a diagnosis is of the two losses of a jobs.classify run"
        )
    folder = result_folder(config, ref, FOLDER)
    started = time.perf_counter()
    classifier = fetch_classifier(ref, config.storage)
    corpora = {name: _open(config, uri) for name, uri in (("corpus", config.corpus), ("held_out", config.held_out))}
    corpus, held_out = corpora["corpus"], corpora["held_out"]
    assert corpus is not None
    notify(f"reading up to {config.rows:,} rows of {config.corpus}")
    batches = _read(config, classifier, corpus, whole=True)
    held_out_batches = [] if held_out is None else _read(config, classifier, held_out, whole=False)
    balance = classifier.config.get("balance") or {}
    record = {
        "checkpoint": ref.uri, "step": ref.step, "corpus": storage.absolute(config.corpus),
        "fingerprint": corpus.fingerprint, "held_out": config.held_out and storage.absolute(config.held_out),
        "rows": sum(int(batch.valid.sum()) for batch in batches), "batch_size": config.batch_size,
        "method": balance.get("method"), "space": balance.get("space"),
        **diagnose(
            classifier.model, batches, held_out=held_out_batches, heads=balance.get("method") != "joint",
            gradient_batches=config.batches, flat_batches=config.flat_batches, directions=config.directions,
            radius=config.radius, points=config.points, iterations=config.iterations, seed=config.seed, notify=notify,
        ),
    }  # fmt: skip
    record |= {"seconds": time.perf_counter() - started, "versions": provenance()["packages"]}
    return DiagnosisResult(record=record, result_uri=_store(config, record, folder))


def _open(config: DiagnoseConfig, uri: str | None) -> Corpus | None:
    return None if uri is None else open_corpus(uri, index=config.index, options=config.storage)


def _read(config: DiagnoseConfig, classifier: LoadedClassifier, corpus: Corpus, *, whole: bool) -> list[Batch]:
    """Read mini-batches of random rows onto the device.

    With `whole` only full ones are read, and ConfigError is raised where there are not two.
    """
    plan = StreamPlan(corpus.extents.rows, corpus.extents.shard, config.seed, config.batch_size)
    rows = min(config.rows, corpus.rows)
    steps = rows // config.batch_size if whole else -(-rows // config.batch_size)
    if whole and steps < 2:
        raise ConfigError(
            f"{corpus.uri} has {corpus.rows:,} rows, fewer than two mini-batches of {config.batch_size}: "
            "lower --batch-size"
        )
    decoder = classifier.decoder(corpus, config.fields)
    device = next(classifier.model.parameters()).device
    return [batch.to(device) for batch in evaluate_classifier.batches(corpus, decoder, plan, steps)]


def _store(config: DiagnoseConfig, record: dict[str, Any], folder: str | None) -> str | None:
    """Store a diagnosis; there is one file for each corpus and step, which a later diagnosis replaces."""
    if folder is None:
        return None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", record["corpus"].rstrip("/").rpartition("/")[2]).strip("-._") or "corpus"
    uri = storage.join(folder, f"{name[:80]}-{record['fingerprint'][:6]}-step-{record['step']}.json")
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(uri, text.encode("utf-8", "backslashreplace"), options=config.storage)
    return uri
