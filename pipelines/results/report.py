"""Write the report of one or several runs as one HTML page, with a gallery over held-out pairs where there are some."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipelines.config.report import ReportConfig
from xmodal import checkpoint, storage
from xmodal.callbacks import Notify
from xmodal.checkpoint import CheckpointRef
from xmodal.data.decode.fields import Field, FieldMap
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.field_maps import available_fields, field_map
from xmodal.data.media.video import VideoField
from xmodal.encoders import dual_encoder_files
from xmodal.encoders.classifier_files import load_classifier
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.hub_tokenizer import read_tokenizer
from xmodal.encoders.input_fields import field_for_input, fields_for_model
from xmodal.errors import CheckpointError, ConfigError, CorpusError, XmodalError
from xmodal.report.held_out_pairs import ReportPairs, embed_pairs, read_pairs, thumbnail_fields
from xmodal.report.page import render_report
from xmodal.report.page_data import PageRun, ReportData
from xmodal.report.quarantine_view import group_by_reason
from xmodal.report.sections.retrieval_results import measure_retrieval
from xmodal.run.run_record import RunRecord, read_run_record
from xmodal.storage import StorageOptions

IMAGE_TEXT, VIDEO_AUDIO = ("image", "text"), ("video", "audio")


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """Where the page was written, and its size in bytes."""

    uri: str
    bytes: int


def run(config: ReportConfig, notify: Notify = lambda message: None) -> ReportResult:
    """Write the page, completely or not at all; where a run lacks data, the page says which command adds them."""
    options = config.storage
    storage.check(config.to, writable=True, options=options)
    for uri in config.runs:
        storage.check(uri, writable=False, options=options)
    records = [read_run_record(uri, options=options) for uri in config.runs]
    missing: dict[str, str] = {}
    pairs = _held_out_pairs(config, records, missing, notify)
    runs = [
        _page_run(config, uri, record, color, pairs, missing, notify)
        for color, (uri, record) in enumerate(zip(config.runs, records, strict=True), 1)
    ]
    data = ReportData(
        runs=tuple(replace(run, label=label) for run, label in zip(runs, _labels(records), strict=True)),
        pairs=pairs,
        missing=missing,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=metadata.version("xmodal"),
    )
    page = render_report(data).encode("utf-8", "backslashreplace")
    storage.write(config.to, page, options=options)
    return ReportResult(uri=config.to, bytes=len(page))


def _labels(records: Sequence[RunRecord]) -> list[str]:
    """Return the names of the runs; where two are equal, with as many of the parent folders as tell them apart."""
    paths = [record.run.uri.rstrip("/").split("/") for record in records]
    for depth in range(1, max(map(len, paths)) + 1):
        labels = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [record.run.uri for record in records]


def _add_missing(missing: dict[str, str], section: str, sentence: str) -> None:
    missing[section] = f"{missing.get(section, '')} {sentence}".strip()


def _held_out_pairs(
    config: ReportConfig, records: Sequence[RunRecord], missing: dict[str, str], notify: Notify
) -> ReportPairs | None:
    """Read pairs of the given corpus, or of the corpus of the newest evaluation where it still exists."""
    dual_encoders = [(uri, run) for uri, run in zip(config.runs, records, strict=True) if not run.is_classifier]
    if not dual_encoders:
        if config.corpus:
            raise ConfigError(
                "--corpus chooses the pairs of the gallery, which only dual encoders have, but these are classifiers: "
                "leave it out"
            )
        return None
    evaluations = [evaluation for _, run in dual_encoders for evaluation in run.evaluations]
    hint = f"add one with `python -m jobs.report {' '.join(config.runs)} --corpus HELD_OUT`"
    newest = max(evaluations, key=lambda evaluation: evaluation.step, default=None)
    uri = config.corpus or (newest.corpus if newest else None)
    if uri is None:
        missing["gallery"] = f"No held-out corpus is known: {hint}."
        missing["results"] = (
            f"No evaluation was recorded: `python -m jobs.evaluate {dual_encoders[0][0]} HELD_OUT` measures retrieval "
            "on pairs that the model was not trained on."
        )
        return None
    notify(f"reading pairs of {uri}")
    clip_fields = _clip_fields(config, [uri for uri, _ in dual_encoders])
    try:
        corpus = open_corpus(uri, index=config.index, options=config.storage)
        if clip_fields:
            return read_pairs(corpus, _clip_field_map(config, corpus, records), config.rows, clip_fields)
        return read_pairs(corpus, field_map(corpus, config.fields, IMAGE_TEXT), config.rows)
    except XmodalError as error:
        if config.corpus:
            raise
        missing["gallery"] = f"The corpus of the evaluation cannot be read ({error}); {hint}."
        return None


def _clip_fields(config: ReportConfig, uris: Sequence[str]) -> Sequence[Field]:
    """Return the fields that decode clips, where the first model embeds video and audio; none for images and text."""
    for uri in uris:
        with suppress(CheckpointError):
            newest = checkpoint.resolve(uri, options=config.storage)
            model_config = json.loads(storage.read(storage.join(newest.uri, "config.json"), options=config.storage))
            input_adapters = dual_encoder_files.input_adapters_in(model_config)
            if set(input_adapters) != set(VIDEO_AUDIO):
                return ()
            video, audio = (field_for_input(input_adapters[name], None) for name in VIDEO_AUDIO)
            assert isinstance(video, VideoField)
            return thumbnail_fields(video, audio)
    return ()


def _clip_field_map(config: ReportConfig, corpus: Corpus, records: Sequence[RunRecord]) -> FieldMap:
    """Return the field map that the configuration gives, else the one that the first run was trained with.

    The latter says which time span of a clip counts. A text field is added where the corpus has one.
    """
    trained_with = (tuple(run.config_value("data.fields") or ()) for run in records if _modalities(run) == VIDEO_AUDIO)
    mapping = field_map(corpus, config.fields or next(trained_with, ()), VIDEO_AUDIO)
    with suppress(CorpusError):
        text = FieldMap.guess(available_fields(corpus), corpus.format, ("text",))
        return FieldMap({**text.sources, **mapping.sources})
    return mapping


def _modalities(record: RunRecord) -> tuple[str, str]:
    """Return the modalities that a run was trained on, by its configuration."""
    if record.is_classifier:
        return IMAGE_TEXT if record.config_value("model.modalities") == [*IMAGE_TEXT] else VIDEO_AUDIO
    return VIDEO_AUDIO if record.config_value("model.architecture") == "av-tiny" else IMAGE_TEXT


def _page_run(
    config: ReportConfig,
    uri: str,
    record: RunRecord,
    color: int,
    pairs: ReportPairs | None,
    missing: dict[str, str],
    notify: Notify,
) -> PageRun:
    """Collect what the page shows of one run; its newest checkpoint embeds the pairs."""
    reasons = group_by_reason(record.quarantine, _TrainingCorpora(record, config.storage).open)
    run = PageRun(record=record, color=color, evaluations=record.evaluations, quarantine_reasons=tuple(reasons))
    try:
        newest = checkpoint.resolve(uri, options=config.storage)
    except CheckpointError as error:
        missing.setdefault("results" if record.is_classifier else "gallery", f"{record.name}: {error}.")
        return run
    run = replace(run, checkpoint=newest.uri, step=newest.step)
    if record.is_classifier:
        return _classifier_run(config, uri, run, newest, missing)
    if pairs is None:
        return run
    notify(f"encoding {len(pairs)} pairs with {record.name}")
    return _dual_encoder_run(config, uri, run, newest, pairs, missing)


def _dual_encoder_run(
    config: ReportConfig,
    uri: str,
    run: PageRun,
    newest: CheckpointRef,
    pairs: ReportPairs,
    missing: dict[str, str],
) -> PageRun:
    """Add the embeddings of the pairs, and retrieval over them where the run has no recorded evaluation."""
    with TemporaryDirectory(prefix="xmodal-report-") as scratch:
        directory = checkpoint.fetch(newest, Path(scratch), skip=("optimizer.safetensors",), options=config.storage)
        model = DualEncoder.from_pretrained(directory).eval()
        if model.modalities != pairs.modalities:
            modalities = " and ".join(model.modalities)
            _add_missing(
                missing, "gallery", f"{run.record.name} embeds {modalities}, so it is not shown on these pairs."
            )
            return run
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        embeddings = embed_pairs(model, fields_for_model(model, read_tokenizer(model.modalities, directory)), pairs)
    parameters = sum(p.numel() for p in model.parameters())
    if not run.record.evaluations:
        _add_missing(
            missing,
            "results",
            f"{run.record.name} has no recorded evaluation: its results are computed from the {len(pairs)} pairs of "
            f"this page. `python -m jobs.evaluate {uri} {pairs.uri}` adds one.",
        )
        run = replace(run, evaluations=(measure_retrieval(pairs, embeddings, newest.step),))
    return replace(run, embeddings=embeddings, parameters=parameters)


def _classifier_run(
    config: ReportConfig, uri: str, run: PageRun, newest: CheckpointRef, missing: dict[str, str]
) -> PageRun:
    """Add the number of parameters; a classifier's results are those that other jobs recorded in the run."""
    with TemporaryDirectory(prefix="xmodal-report-") as scratch:
        directory = checkpoint.fetch(newest, Path(scratch), skip=("optimizer.safetensors",), options=config.storage)
        model, _ = load_classifier(directory)
    if not run.evaluations:
        command = f"python -m jobs.evaluate {uri} HELD_OUT"
        _add_missing(missing, "results", f"{run.record.name} has no recorded evaluation: `{command}` adds one.")
    if not run.record.diagnoses:
        command = f"python -m jobs.diagnose {uri} CORPUS --held-out HELD_OUT"
        _add_missing(missing, "diagnosis", f"{run.record.name} has no recorded diagnosis: `{command}` adds one.")
    return replace(run, parameters=sum(p.numel() for p in model.parameters()))


class _TrainingCorpora:
    """The corpora that a run was trained on, by the URI that its quarantine names; each is opened once."""

    def __init__(self, record: RunRecord, options: StorageOptions) -> None:
        self._record, self._options = record, options
        self._corpora: dict[str, tuple[Corpus, FieldMap]] | None = None

    def open(self, uri: str) -> tuple[Corpus, FieldMap]:
        """Return a corpus with its field map; CorpusError where it is no longer the one that the run read."""
        if self._corpora is None:
            self._corpora = dict(self._open_all())
        if uri not in self._corpora:
            raise CorpusError(f"{uri} is not a corpus of this run")
        return self._corpora[uri]

    def _open_all(self) -> list[tuple[str, tuple[Corpus, FieldMap]]]:
        specs = tuple(self._record.config_value("data.fields") or ())
        index = self._record.config_value("data.index")
        corpora = []
        for uri in self._record.config_value("data.corpus") or ():
            corpus = open_corpus(uri, index=index, options=self._options)
            if corpus.fingerprint == self._record.run.corpora.get(uri, corpus.fingerprint):
                corpora.append((corpus.uri, (corpus, field_map(corpus, specs, _modalities(self._record)))))
        return corpora
