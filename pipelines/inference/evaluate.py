"""Checkpoint + held-out corpora -> retrieval both ways, zero-shot classes, a linear probe: beside chance, as JSON.

A small corpus is encoded in this process; with `workers`, or on a cluster, encoders share the work. The figures are
computed from the embeddings here: nobody waits for one rank.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.config.evaluate import Config
from pipelines.inference import evaluate_classifier
from pipelines.inference.embed import connect
from pipelines.inference.encode import (
    Encoded,
    Part,
    Task,
    Trained,
    encode_here,
    encode_on_cluster,
    encode_texts,
    load,
    parts,
)
from pipelines.inference.evaluation_records import Evaluation, place_of, store
from pipelines.inference.pair_retrieval import search
from pipelines.models.label_head import Head, head_in
from pipelines.stream.corpora import available, field_map
from xmodal import checkpoint, storage
from xmodal.data.decode.fields import FieldMap, parse_field_map
from xmodal.data.decode.text import clean_caption
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.stream.evaluation_rows import ItemRecipe
from xmodal.errors import BadSample, ConfigError, CorpusError, nearest
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.metrics.linear_probe import linear_probe
from xmodal.metrics.retrieval import Retrieval
from xmodal.metrics.zero_shot import TEMPLATES, class_embeddings, prompts, zero_shot
from xmodal.storage import NotFound

SMALL_ROWS = 20_000  # what is encoded in this process although a cluster is there
ROWS_PER_PART = 4096


@dataclass(eq=False)
class _Figures:
    """What has been measured so far."""

    metrics: dict[str, float] = field(default_factory=dict)
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def run(config: Config) -> Evaluation:
    """Encode every row of the corpus once and measure; the result is stored unless the configuration says no."""
    _check_storage(config)
    found_at = checkpoint.resolve(config.checkpoint, options=config.storage)
    if evaluate_classifier.is_classifier(found_at, config.storage):
        return evaluate_classifier.run(config, found_at)
    names, templates = _class_names(config), _templates(config)
    trained = load(config.checkpoint, config.storage)
    head = head_in(trained.files) if config.label else None
    _refuse_classes_of_clips(config, trained, head)
    where = place_of(config, trained.found)
    corpus = _open(config, config.corpus)
    wanted = trained.modalities if config.retrieval else ("image",)
    found = _encode(config, trained, corpus, _recipe(config, corpus, trained, wanted))
    if not len(found.row):
        reasons = ", ".join(sorted({fault["reason"] for fault in found.faults}))
        raise CorpusError(f"{config.corpus}: none of its {corpus.rows} rows can be read ({reasons})")
    figures = _Figures(settings={"bootstrap": config.bootstrap, "seed": config.seed})
    searches = _retrieval(config, found, figures) if config.retrieval else {}
    if config.label and trained.reads_text:
        _zero_shot(config, trained, found, names, templates, figures)
    if head is not None:
        _label_predictor(config, head, found, figures)
    if config.probe_train:
        _linear_probe(config, trained, found, figures)
    result = Evaluation(
        checkpoint=trained.found.uri, step=trained.found.step, corpus=storage.absolute(config.corpus),
        fingerprint=corpus.fingerprint, rows=len(found.row), skipped=corpus.rows - len(found.row),
        searches=searches, **vars(figures), stored=where,
    )  # fmt: skip
    return store(config, result)


def _refuse_classes_of_clips(config: Config, trained: Trained, head: Head | None) -> None:
    if config.label and not trained.reads_text and (head is None or config.probe_train or not config.retrieval):
        raise ConfigError(
            f"--label is for models that read text: {config.checkpoint} pairs {' and '.join(trained.modalities)}; "
            "leave it out to measure retrieval"
        )


def _check_storage(config: Config) -> None:
    """At once, where opening would wait for an outage to end."""
    for uri in filter(None, (config.checkpoint, config.corpus, config.probe_train)):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)


def _open(config: Config, uri: str) -> Corpus:
    return open_corpus(uri, index=config.index, options=config.storage)


def _recipe(config: Config, corpus: Corpus, trained: Trained, names: tuple[str, ...]) -> ItemRecipe:
    specs = [spec for spec in trained.specs(config.fields) if spec.partition("=")[0].strip() in names]
    mapping = field_map(corpus, specs, names)
    if config.label:
        label = parse_field_map((f"label={config.label}",))
        label.check(available(corpus))
        mapping = FieldMap({**mapping.sources, **label.sources})
    return ItemRecipe(mapping, tuple(trained.fields[name] for name in names), label=bool(config.label))


def _encode(config: Config, trained: Trained, corpus: Corpus, recipe: ItemRecipe) -> Encoded:
    """Every sound row, in corpus order."""
    task = Task(corpus, recipe, config.batch_size)
    if not _workers_wanted(config, corpus.rows):
        return encode_here(trained, trained.model(_device()), task)
    held = connect(config.workers or None, config)
    todo = parts(corpus, ROWS_PER_PART)
    done = dict(encode_on_cluster(trained, task, todo, _keep, held))
    return Encoded.join([done[part] for part in todo])


def _workers_wanted(config: Config, rows: int) -> bool:
    if config.workers is not None:
        return config.workers > 0
    address = config.address or os.environ.get("RAY_ADDRESS")
    return bool(address) and address != "local" and rows > SMALL_ROWS


def _keep(part: Part, found: Encoded) -> Encoded:
    return found


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _retrieval(config: Config, found: Encoded, figures: _Figures) -> dict[str, Retrieval]:
    """Searches both ways, and their figures."""
    searches = search(found)
    for prefix, one in searches.items():
        for name, value in one.as_metrics(prefix).items():
            into = figures.chance if "/chance/" in name else figures.metrics
            into[name.replace("/chance/", "/")] = value
        figures.interval |= one.intervals(prefix, draws=config.bootstrap, seed=config.seed)
    if "text" in found.vectors:
        figures.settings |= {"images": len(found.row), "captions": len(found.text)}
    return searches


def _zero_shot(
    config: Config,
    trained: Trained,
    found: Encoded,
    names: list[str] | None,
    templates: list[str],
    figures: _Figures,
) -> None:
    names = names or sorted(set(found.label))
    if len(names) < 2:
        raise CorpusError(f"all {len(found.label)} labels are {names[0]!r}: name all classes there are with --classes")
    number = _numbers(found.label, names)
    model = trained.model(_device())
    classes = class_embeddings(lambda texts: encode_texts(trained, model, texts, config.batch_size), names, templates)
    result = zero_shot(torch.from_numpy(found.vectors["image"]), torch.tensor(number), classes)
    figures.metrics |= result.as_metrics()
    figures.chance |= result.chance()
    figures.interval |= result.intervals(draws=config.bootstrap, seed=config.seed)
    figures.settings |= {"classes": len(names), "templates": templates}


def _numbers(labels: list[str], names: list[str]) -> list[int]:
    """The place of each label among the class names: by name, else as a number counted from 0."""
    place = {name: number for number, name in enumerate(names)}
    unknown = sorted({label for label in labels if label not in place})
    if unknown and all(label.isdecimal() and int(label) < len(names) for label in labels):
        return [int(label) for label in labels]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} labels of the corpus are no class names, first {unknown[0]!r}: "
            f"{nearest(unknown[0], names[:50])}; add them to --classes, or leave it out to take the corpus's"
        )
    return [place[label] for label in labels]


def _linear_probe(config: Config, trained: Trained, found: Encoded, figures: _Figures) -> None:
    assert config.probe_train is not None
    corpus = _open(config, config.probe_train)
    train = _encode(config, trained, corpus, _recipe(config, corpus, trained, ("image",)))
    if not len(train.row):
        raise CorpusError(f"{config.probe_train}: none of its {corpus.rows} rows can be read")
    result = linear_probe(train.vectors["image"], train.label, found.vectors["image"], found.label, seed=config.seed)
    figures.metrics["linear_probe/accuracy"] = result.accuracy
    figures.chance["linear_probe/accuracy"] = result.chance
    figures.interval["linear_probe/accuracy"] = result.interval(draws=config.bootstrap, seed=config.seed)
    figures.settings["linear_probe"] = {
        "corpus": storage.absolute(config.probe_train), "fingerprint": corpus.fingerprint, "rows": result.trained_on,
        "skipped": corpus.rows - result.trained_on, "strength": result.strength, "classes": result.classes,
        "rows_of_unknown_classes": result.unknown,
    }  # fmt: skip


def _label_predictor(config: Config, head: Head, found: Encoded, figures: _Figures) -> None:
    """How often the head that was trained beside the model is right; a class that it does not know it gets wrong."""
    said, predicted = found.label, head.predict(found.vectors[head.modality])
    if set(said).isdisjoint(head.classes) and all(label.isdecimal() for label in said):
        said = [head.classes[int(label)] if int(label) < len(head.classes) else label for label in said]
    right, name = sum(a == b for a, b in zip(said, predicted, strict=True)) / len(said), "label_predictor/accuracy"
    figures.metrics[name], figures.chance[name] = right, 1 / len(head.classes)
    figures.interval[name] = interval_of_share(right, len(said), draws=config.bootstrap, seed=config.seed)
    unknown = sum(label not in head.classes for label in said)
    figures.settings["label_predictor"] = {"classes": len(head.classes), "rows_of_unknown_classes": unknown}


def _class_names(config: Config) -> list[str] | None:
    if config.classes is None:
        return None
    names = _lines(config, config.classes)
    twice = [name for name in set(names) if names.count(name) > 1]
    if len(names) < 2 or twice:
        what = f"names {twice[0]!r} twice" if twice else "needs at least two class names"
        raise ConfigError(f"{config.classes} {what}: one class a line, each once")
    return names


def _templates(config: Config) -> list[str]:
    found = list(TEMPLATES) if config.templates is None else _lines(config, config.templates)
    if not found:
        raise ConfigError(f"{config.templates} is empty: one template a line, e.g. a photo of a {{}}.")
    prompts(["class"], found)
    return found


def _lines(config: Config, uri: str) -> list[str]:
    """The lines of a text file that are not blank, as clean as captions."""
    try:
        text = storage.read(uri, options=config.storage).decode("utf-8-sig")
        return [clean_caption(line) for line in text.splitlines() if line.strip()]
    except NotFound as error:
        raise ConfigError(f"there is no file {uri}") from error
    except (UnicodeDecodeError, BadSample) as error:
        raise ConfigError(f"{uri} is no text in UTF-8 ({error})") from error
