"""Evaluate a checkpoint on held-out corpora: retrieval, zero-shot classification, a linear probe; as JSON, with chance.

A small corpus is encoded in this process; with `workers`, or on a cluster, encoders share the work. The results are
computed from the embeddings here: nobody waits for one rank.
"""

import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pipelines.config.evaluate import EvaluateConfig
from pipelines.inference import evaluate_classifier
from pipelines.inference.embed import connect_encoders
from pipelines.inference.encode import (
    Embeddings,
    EncodingTask,
    ExtentRange,
    cut_into_parts,
    encode_here,
    encode_on_cluster,
    encode_texts,
)
from pipelines.inference.evaluation_records import Evaluation, result_folder, store_evaluation
from pipelines.inference.pair_retrieval import centre_embeddings, search_both_ways
from pipelines.models.label_head import LoadedLabelHead, label_head_in
from pipelines.models.loaded_classifier import is_classifier
from pipelines.models.loaded_encoder import LoadedEncoder, load_encoder
from xmodal import checkpoint, storage
from xmodal.data.decode.fields import FieldMap, parse_field_map
from xmodal.data.decode.text import clean_caption
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.field_maps import available_fields, field_map
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.stream.evaluation_rows import EvaluationDecoder
from xmodal.errors import BadSample, ConfigError, CorpusError, nearest
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.metrics.linear_probe import linear_probe
from xmodal.metrics.retrieval import RetrievalResult
from xmodal.metrics.zero_shot import TEMPLATES, class_embeddings, fill_templates, zero_shot
from xmodal.storage import NotFound

SMALL_ROWS = 20_000  # a corpus of so many rows is encoded in this process even if there is a cluster
ROWS_PER_PART = 4096


@dataclass(eq=False)
class _Measurements:
    """What has been measured so far, by flat names."""

    metrics: dict[str, float] = field(default_factory=dict)
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def run(config: EvaluateConfig, *, centred: bool = False) -> Evaluation:
    """Encode every row of the corpus once and measure; the result is stored unless `config.save` is False.

    With `centred` the embeddings of each modality are centred on their mean over the corpus before anything is
    measured, and nothing is stored, since a run holds the evaluations of its model as it is.
    """
    config = replace(config, save=config.save and not centred)
    _check_storage(config)
    ref = checkpoint.resolve(config.checkpoint, options=config.storage)
    if is_classifier(ref, config.storage):
        return evaluate_classifier.run(config, ref)
    names, templates = _class_names(config), _templates(config)
    encoder = load_encoder(config.checkpoint, config.storage)
    head = label_head_in(encoder.files) if config.label else None
    _check_label_task(config, encoder, head)
    folder = result_folder(config, encoder.ref)
    corpus = _open(config, config.corpus)
    wanted = encoder.modalities if config.retrieval else ("image",)
    embeddings = _encode(config, encoder, corpus, _decoder(config, corpus, encoder, wanted))
    if not len(embeddings.row):
        reasons = ", ".join(sorted({fault["reason"] for fault in embeddings.faults}))
        raise CorpusError(f"{config.corpus}: none of its {corpus.rows} rows can be read ({reasons})")
    embeddings = centre_embeddings(embeddings) if centred else embeddings
    results = _Measurements(settings={"bootstrap": config.bootstrap, "seed": config.seed})
    searches = _retrieval(config, embeddings, results) if config.retrieval else {}
    if config.label and encoder.reads_text:
        _zero_shot(config, encoder, embeddings, names, templates, results)
    if head is not None:
        _label_predictor(config, head, embeddings, results)
    if config.probe_train:
        _linear_probe(config, encoder, embeddings, results)
    result = Evaluation(
        checkpoint=encoder.ref.uri, step=encoder.ref.step, corpus=storage.absolute(config.corpus),
        fingerprint=corpus.fingerprint, rows=len(embeddings.row), skipped=corpus.rows - len(embeddings.row),
        searches=searches, **vars(results), result_uri=folder,
    )  # fmt: skip
    return store_evaluation(config, result)


def _check_label_task(config: EvaluateConfig, encoder: LoadedEncoder, head: LoadedLabelHead | None) -> None:
    if config.label and not encoder.reads_text and (head is None or config.probe_train or not config.retrieval):
        raise ConfigError(
            f"--label is for models that read text: {config.checkpoint} pairs {' and '.join(encoder.modalities)}; "
            "leave it out to measure retrieval"
        )


def _check_storage(config: EvaluateConfig) -> None:
    """Raise what is wrong with storage at once: opening a corpus would wait for an outage to end."""
    for uri in filter(None, (config.checkpoint, config.corpus, config.probe_train)):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)


def _open(config: EvaluateConfig, uri: str) -> Corpus:
    return open_corpus(uri, index=config.index, options=config.storage)


def _decoder(
    config: EvaluateConfig, corpus: Corpus, encoder: LoadedEncoder, names: tuple[str, ...]
) -> EvaluationDecoder:
    specs = [spec for spec in encoder.field_specs(config.fields) if spec.partition("=")[0].strip() in names]
    mapping = field_map(corpus, specs, names)
    if config.label:
        label = parse_field_map((f"label={config.label}",))
        label.check(available_fields(corpus))
        mapping = FieldMap({**mapping.sources, **label.sources})
    return EvaluationDecoder(mapping, tuple(encoder.fields[name] for name in names), label=bool(config.label))


def _encode(config: EvaluateConfig, encoder: LoadedEncoder, corpus: Corpus, decoder: EvaluationDecoder) -> Embeddings:
    """Embed every valid row, in the order of the corpus."""
    task = EncodingTask(corpus, decoder, config.batch_size)
    if not _workers_wanted(config, corpus.rows):
        return encode_here(encoder, encoder.model(_device()), task)
    cluster = connect_encoders(config.workers or None, config)
    todo = cut_into_parts(corpus, ROWS_PER_PART)
    done = dict(encode_on_cluster(encoder, task, todo, _return_embeddings, cluster))
    return Embeddings.join([done[part] for part in todo])


def _workers_wanted(config: EvaluateConfig, rows: int) -> bool:
    if config.workers is not None:
        return config.workers > 0
    address = config.address or os.environ.get("RAY_ADDRESS")
    return bool(address) and address != "local" and rows > SMALL_ROWS


def _return_embeddings(part: ExtentRange, embeddings: Embeddings) -> Embeddings:
    return embeddings


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _retrieval(config: EvaluateConfig, embeddings: Embeddings, results: _Measurements) -> dict[str, RetrievalResult]:
    """Searches both ways, and their results."""
    searches = search_both_ways(embeddings)
    for prefix, search in searches.items():
        for name, value in search.as_metrics(prefix).items():
            values = results.chance if "/chance/" in name else results.metrics
            values[name.replace("/chance/", "/")] = value
        results.interval |= search.intervals(prefix, draws=config.bootstrap, seed=config.seed)
    if "text" in embeddings.vectors:
        results.settings |= {"images": len(embeddings.row), "captions": len(embeddings.text)}
    return searches


def _zero_shot(
    config: EvaluateConfig,
    encoder: LoadedEncoder,
    embeddings: Embeddings,
    names: list[str] | None,
    templates: list[str],
    results: _Measurements,
) -> None:
    names = names or sorted(set(embeddings.label))
    if len(names) < 2:
        raise CorpusError(
            f"all {len(embeddings.label)} labels are {names[0]!r}: name all classes there are with --classes"
        )
    number = _numbers(embeddings.label, names)
    model = encoder.model(_device())
    classes = class_embeddings(lambda texts: encode_texts(encoder, model, texts, config.batch_size), names, templates)
    result = zero_shot(torch.from_numpy(embeddings.vectors["image"]), torch.tensor(number), classes)
    results.metrics |= result.as_metrics()
    results.chance |= result.chance()
    results.interval |= result.intervals(draws=config.bootstrap, seed=config.seed)
    results.settings |= {"classes": len(names), "templates": templates}


def _numbers(labels: list[str], names: list[str]) -> list[int]:
    """Return the number of each label among the class names: by name, else the label itself as a number from 0."""
    number_of = {name: number for number, name in enumerate(names)}
    unknown = sorted({label for label in labels if label not in number_of})
    if unknown and all(label.isdecimal() and int(label) < len(names) for label in labels):
        return [int(label) for label in labels]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} labels of the corpus are no class names, first {unknown[0]!r}: "
            f"{nearest(unknown[0], names[:50])}; add them to --classes, or leave it out to take the corpus's"
        )
    return [number_of[label] for label in labels]


def _linear_probe(
    config: EvaluateConfig, encoder: LoadedEncoder, embeddings: Embeddings, results: _Measurements
) -> None:
    assert config.probe_train is not None
    corpus = _open(config, config.probe_train)
    train = _encode(config, encoder, corpus, _decoder(config, corpus, encoder, ("image",)))
    if not len(train.row):
        raise CorpusError(f"{config.probe_train}: none of its {corpus.rows} rows can be read")
    result = linear_probe(
        train.vectors["image"], train.label, embeddings.vectors["image"], embeddings.label, seed=config.seed
    )
    results.metrics["linear_probe/accuracy"] = result.accuracy
    results.chance["linear_probe/accuracy"] = result.chance
    results.interval["linear_probe/accuracy"] = result.interval(draws=config.bootstrap, seed=config.seed)
    results.settings["linear_probe"] = {
        "corpus": storage.absolute(config.probe_train), "fingerprint": corpus.fingerprint, "rows": result.trained_on,
        "skipped": corpus.rows - result.trained_on, "strength": result.strength, "classes": result.classes,
        "rows_of_unknown_classes": result.unknown,
    }  # fmt: skip


def _label_predictor(
    config: EvaluateConfig, head: LoadedLabelHead, embeddings: Embeddings, results: _Measurements
) -> None:
    """Record the accuracy of the head that was trained beside the model; classes unknown to it count as wrong."""
    labels, predicted = embeddings.label, head.predict(embeddings.vectors[head.modality])
    if set(labels).isdisjoint(head.classes) and all(label.isdecimal() for label in labels):
        labels = [head.classes[int(label)] if int(label) < len(head.classes) else label for label in labels]
    right, name = sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels), "label_predictor/accuracy"
    results.metrics[name], results.chance[name] = right, 1 / len(head.classes)
    results.interval[name] = interval_of_share(right, len(labels), draws=config.bootstrap, seed=config.seed)
    unknown = sum(label not in head.classes for label in labels)
    results.settings["label_predictor"] = {"classes": len(head.classes), "rows_of_unknown_classes": unknown}


def _class_names(config: EvaluateConfig) -> list[str] | None:
    if config.classes is None:
        return None
    names = _lines(config, config.classes)
    twice = [name for name in set(names) if names.count(name) > 1]
    if len(names) < 2 or twice:
        problem = f"names {twice[0]!r} twice" if twice else "needs at least two class names"
        raise ConfigError(f"{config.classes} {problem}: one class a line, each once")
    return names


def _templates(config: EvaluateConfig) -> list[str]:
    templates = list(TEMPLATES) if config.templates is None else _lines(config, config.templates)
    if not templates:
        raise ConfigError(f"{config.templates} is empty: one template a line, e.g. a photo of a {{}}.")
    fill_templates(["class"], templates)
    return templates


def _lines(config: EvaluateConfig, uri: str) -> list[str]:
    """Return the lines of a text file that are not blank, cleaned as captions are."""
    try:
        text = storage.read(uri, options=config.storage).decode("utf-8-sig")
        return [clean_caption(line) for line in text.splitlines() if line.strip()]
    except NotFound as error:
        raise ConfigError(f"there is no file {uri}") from error
    except (UnicodeDecodeError, BadSample) as error:
        raise ConfigError(f"{uri} is no text in UTF-8 ({error})") from error
