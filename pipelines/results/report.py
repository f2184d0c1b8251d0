"""Runs, and a held-out corpus where there is one, in; one HTML page that shows what the runs learned out."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipelines.config.report import Config
from pipelines.inference.encode import tokenizer_of
from pipelines.stream.corpora import available, field_map
from xmodal import checkpoint, storage
from xmodal.checkpoint import Found
from xmodal.data.decode.fields import Field, FieldMap
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.media.video import VideoField
from xmodal.encoders import dual_encoder_files
from xmodal.encoders.classifier_files import load_classifier
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.input_fields import field_of, fields_of
from xmodal.errors import CheckpointError, ConfigError, CorpusError, XmodalError
from xmodal.report.held_out_pairs import Pairs, embed, read_pairs, shown_of
from xmodal.report.page import render
from xmodal.report.page_data import Material, Shown
from xmodal.report.quarantine_view import reasons
from xmodal.report.sections.retrieval_results import measure
from xmodal.run.run_record import Recorded, read_run
from xmodal.storage import StorageOptions

Notify = Callable[[str], None]
FIELDS, CLIPS = ("image", "text"), ("video", "audio")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where the page lies, and its weight."""

    uri: str
    bytes: int


def run(config: Config, notify: Notify = lambda message: None) -> Result:
    """Write the page, whole or not at all. What a run lacks is said on the page with the command that adds it."""
    options = config.storage
    storage.check(config.to, writable=True, options=options)
    for uri in config.runs:
        storage.check(uri, writable=False, options=options)
    recorded = [read_run(uri, options=options) for uri in config.runs]
    missing: dict[str, str] = {}
    pairs = _pairs(config, recorded, missing, notify)
    runs = tuple(
        _shown(config, uri, one, slot, pairs, missing, notify)
        for slot, (uri, one) in enumerate(zip(config.runs, recorded, strict=True), 1)
    )
    runs = tuple(replace(run, label=label) for run, label in zip(runs, _labels(recorded), strict=True))
    page = render(
        Material(
            runs=runs,
            pairs=pairs,
            missing=missing,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            version=metadata.version("xmodal"),
        )
    ).encode("utf-8", "backslashreplace")
    storage.write(config.to, page, options=options)
    return Result(uri=config.to, bytes=len(page))


def _labels(recorded: list[Recorded]) -> list[str]:
    """The names of the runs; where two are alike, with as much of the folders above as tells them apart."""
    places = [one.run.uri.rstrip("/").split("/") for one in recorded]
    for depth in range(1, max(map(len, places)) + 1):
        labels = ["/".join(parts[-depth:]) for parts in places]
        if len(set(labels)) == len(labels):
            return labels
    return [one.run.uri for one in recorded]


def _pairs(config: Config, recorded: list[Recorded], missing: dict[str, str], notify: Notify) -> Pairs | None:
    """Pairs of the given corpus; else of that of the newest evaluation, where it is still there."""
    pairing = [(uri, run) for uri, run in zip(config.runs, recorded, strict=True) if not run.classifier]
    if not pairing:
        if config.corpus:
            raise ConfigError(
                "--corpus is for runs that pair, and shows a gallery: these are classifiers, which have none"
            )
        return None
    evaluations = [one for _, run in pairing for one in run.evaluations]
    add = f"add one with `python -m jobs.report {' '.join(config.runs)} --corpus HELD_OUT`"
    uri = config.corpus or (max(evaluations, key=lambda one: one.step).corpus if evaluations else None)
    if uri is None:
        missing["gallery"] = f"No held-out corpus is known: {add}."
        missing["results"] = (
            f"No evaluation was recorded: `python -m jobs.evaluate {pairing[0][0]} HELD_OUT` measures retrieval on "
            "pairs that the model has not seen."
        )
        return None
    notify(f"reading pairs of {uri}")
    clips = _clips(config, [uri for uri, _ in pairing])
    try:
        corpus = open_corpus(uri, index=config.index, options=config.storage)
        if clips:
            return read_pairs(corpus, _map_of_clips(config, corpus, recorded), config.rows, clips)
        return read_pairs(corpus, field_map(corpus, config.fields, FIELDS), config.rows)
    except XmodalError as error:
        if config.corpus:
            raise
        missing["gallery"] = f"The corpus of the evaluation cannot be read ({error}); {add}."
        return None


def _clips(config: Config, uris: Sequence[str]) -> Sequence[Field]:
    """What decodes the clips of a page whose first model pairs them; empty where it pairs pictures and captions."""
    for uri in uris:
        with suppress(CheckpointError):
            found = checkpoint.resolve(uri, options=config.storage)
            described = json.loads(storage.read(storage.join(found.uri, "config.json"), options=config.storage))
            intakes = dual_encoder_files.intakes_in(described)
            if set(intakes) != set(CLIPS):
                return ()
            video, audio = (field_of(intakes[name], None) for name in CLIPS)
            assert isinstance(video, VideoField)
            return shown_of(video, audio)
    return ()


def _map_of_clips(config: Config, corpus: Corpus, recorded: list[Recorded]) -> FieldMap:
    """As asked for, else as the first run was trained: it says which seconds count. With a text where there is one."""
    known = (tuple(run.configured("data.fields") or ()) for run in recorded if _modalities(run) == CLIPS)
    mapping = field_map(corpus, config.fields or next(known, ()), CLIPS)
    with suppress(CorpusError):
        text = FieldMap.guess(available(corpus), corpus.format, ("text",))
        return FieldMap({**text.sources, **mapping.sources})
    return mapping


def _modalities(recorded: Recorded) -> tuple[str, str]:
    """What a run was trained on, as its configuration tells it."""
    return CLIPS if recorded.classifier or recorded.configured("model.architecture") == "av-tiny" else FIELDS


def _shown(
    config: Config,
    uri: str,
    recorded: Recorded,
    slot: int,
    pairs: Pairs | None,
    missing: dict[str, str],
    notify: Notify,
) -> Shown:
    found = reasons(recorded.quarantine, _Corpora(recorded, config.storage).open)
    shown = Shown(recorded=recorded, slot=slot, evaluations=recorded.evaluations, reasons=tuple(found))
    try:
        newest = checkpoint.resolve(uri, options=config.storage)
    except CheckpointError as error:
        missing.setdefault("results" if recorded.classifier else "gallery", f"{recorded.name}: {error}.")
        return shown
    shown = replace(shown, checkpoint=newest.uri, step=newest.step)
    if recorded.classifier:
        return _shown_classifier(config, uri, shown, newest, missing)
    if pairs is None:
        return shown
    notify(f"encoding {len(pairs)} pairs with {recorded.name}")
    with TemporaryDirectory(prefix="xmodal-report-") as scratch:
        directory = checkpoint.fetch(newest, Path(scratch), skip=("optimizer.safetensors",), options=config.storage)
        model = DualEncoder.from_pretrained(directory).eval()
        if model.modalities != pairs.modalities:
            words = f"{recorded.name} pairs {' and '.join(model.modalities)}, and is not shown on these pairs."
            missing["gallery"] = f"{missing.get('gallery', '')} {words}".strip()
            return shown
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        embedded = embed(model, fields_of(model, tokenizer_of(model, directory)), pairs)
    parameters = sum(p.numel() for p in model.parameters())
    if not recorded.evaluations:
        line = (
            f"{recorded.name} has no recorded evaluation: its figures are of the {len(pairs)} pairs of this page. "
            f"`python -m jobs.evaluate {uri} {pairs.uri}` measures and keeps them."
        )
        missing["results"] = f"{missing.get('results', '')} {line}".strip()
        shown = replace(shown, evaluations=(measure(pairs, embedded, newest.step),))
    return replace(shown, embedded=embedded, parameters=parameters)


def _shown_classifier(config: Config, uri: str, shown: Shown, newest: Found, missing: dict[str, str]) -> Shown:
    """A classifier with its size; its figures are those that other jobs left in the run."""
    with TemporaryDirectory(prefix="xmodal-report-") as scratch:
        directory = checkpoint.fetch(newest, Path(scratch), skip=("optimizer.safetensors",), options=config.storage)
        model, _ = load_classifier(directory)
    adds = {
        "results": (shown.evaluations, "evaluation", f"python -m jobs.evaluate {uri} HELD_OUT"),
        "diagnosis": (
            shown.recorded.diagnoses,
            "diagnosis",
            f"python -m jobs.diagnose {uri} CORPUS --held-out HELD_OUT",
        ),
    }
    for section, (found, what, command) in adds.items():
        if not found:
            line = f"{shown.recorded.name} has no recorded {what}: `{command}` adds one."
            missing[section] = f"{missing.get(section, '')} {line}".strip()
    return replace(shown, parameters=sum(p.numel() for p in model.parameters()))


class _Corpora:
    """The corpora that a run was trained on, by the URI that its quarantine names; each is opened once."""

    def __init__(self, recorded: Recorded, options: StorageOptions) -> None:
        self._recorded, self._options = recorded, options
        self._opened: dict[str, tuple[Corpus, FieldMap]] | None = None

    def open(self, uri: str) -> tuple[Corpus, FieldMap]:
        """CorpusError where the corpus is no longer the one that the run read."""
        if self._opened is None:
            self._opened = dict(self._all())
        if uri not in self._opened:
            raise CorpusError(f"{uri} is not a corpus of this run")
        return self._opened[uri]

    def _all(self) -> list[tuple[str, tuple[Corpus, FieldMap]]]:
        specs = tuple(self._recorded.configured("data.fields") or ())
        index = self._recorded.configured("data.index")
        found = []
        for uri in self._recorded.configured("data.corpus") or ():
            corpus = open_corpus(uri, index=index, options=self._options)
            if corpus.fingerprint == self._recorded.run.corpora.get(uri, corpus.fingerprint):
                found.append((corpus.uri, (corpus, field_map(corpus, specs, _modalities(self._recorded)))))
        return found
