"""Checkpoint of a classifier + labelled clips -> accuracy of the fusion and of each head, beside chance, as JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.nn import functional as F

from pipelines.config.classifier import Classifier
from pipelines.config.evaluate import Config
from pipelines.inference.evaluation_records import Evaluation, place_of, store
from pipelines.models.classifier import FIELDS, fields_of
from pipelines.stream.corpora import field_map
from pipelines.stream.ingest import to_batch
from xmodal import checkpoint, storage
from xmodal.batch import Batch
from xmodal.checkpoint import Found
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import Recipe
from xmodal.data.stream.order import Plan
from xmodal.encoders.classifier_files import MODEL_TYPE, load_classifier
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import ConfigError, CorpusError
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.storage import StorageOptions

WITHOUT = ("optimizer.safetensors", "critics.safetensors")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A classifier on the device, in evaluation mode, with the names of its classes and the run's configuration."""

    model: MultimodalClassifier
    classes: tuple[str, ...]
    config: dict[str, Any]

    def recipe(self, corpus: Corpus, fields: tuple[str, ...]) -> Recipe:
        """What decodes a corpus for it, each clip by the middle of its window; `fields` empty: as in the training."""
        specs = fields or tuple(self.config["data"]["fields"])
        chosen = Classifier(**{name: _tuples(value) for name, value in self.config["model"].items()})
        return Recipe(field_map(corpus, specs, FIELDS), fields_of(chosen, None))


def load(found: Found, options: StorageOptions) -> Trained:
    """The classifier of a checkpoint."""
    with TemporaryDirectory(prefix="xmodal-classifier-") as scratch:
        directory = checkpoint.fetch(found, Path(scratch), skip=WITHOUT, options=options)
        model, classes = load_classifier(directory)
        config = json.loads((directory / "run.json").read_text())["config"]
    return Trained(model=model.to(_device()), classes=classes, config=config)


def is_classifier(found: Found, options: StorageOptions) -> bool:
    """Whether a checkpoint holds a multimodal classifier."""
    config = json.loads(storage.read(storage.join(found.uri, "config.json"), options=options))
    return config.get("model_type") == MODEL_TYPE


def run(config: Config, found: Found) -> Evaluation:
    """Classify every row of the corpus once, each clip by the middle of its window."""
    _refuse_other_tasks(config)
    where = place_of(config, found)
    trained = load(found, config.storage)
    classes = trained.classes
    corpus = open_corpus(config.corpus, index=config.index, options=config.storage)
    right, rows = _right(trained.model, corpus, trained.recipe(corpus, config.fields), config.batch_size)
    if not rows:
        raise CorpusError(f"{config.corpus}: none of its {corpus.rows} rows can be read and has a class that is known")
    shares = {f"accuracy/{name}": count / rows for name, count in right.items()}
    intervals = {
        name: interval_of_share(share, rows, draws=config.bootstrap, seed=config.seed) for name, share in shares.items()
    }
    result = Evaluation(
        checkpoint=found.uri, step=found.step, corpus=storage.absolute(config.corpus), fingerprint=corpus.fingerprint,
        rows=rows, skipped=corpus.rows - rows, metrics=shares, interval=intervals,
        chance=dict.fromkeys(shares, 1 / len(classes)),
        settings={"bootstrap": config.bootstrap, "seed": config.seed, "classes": len(classes)}, stored=where,
    )  # fmt: skip
    return store(config, result)


def _refuse_other_tasks(config: Config) -> None:
    asked = [name for name in ("label", "classes", "templates", "probe_train") if getattr(config, name)]
    if asked:
        flag = asked[0].replace("_", "-")
        raise ConfigError(f"--{flag} is for dual encoders: {config.checkpoint} is a classifier and knows its classes")


def _right(model: MultimodalClassifier, corpus: Corpus, recipe: Recipe, size: int) -> tuple[dict[str, int], int]:
    """How many rows the fusion, each head and the mean of the heads got right, and how many there are."""
    names = ("multimodal", *model.modalities, "ensemble")
    right, rows = dict.fromkeys(names, 0), 0
    plan = Plan(corpus.extents.rows, corpus.extents.shard, 0, size, shuffle=False)
    for batch in batches(corpus, recipe, plan, plan.steps_per_epoch):
        scores = model.scores(batch.to(_device()))
        scores["ensemble"] = torch.stack([F.softmax(scores[name], 1) for name in model.modalities]).mean(0)
        for name in names:
            hit = scores[name].argmax(1).cpu() == batch.fields["label"]
            right[name] += int((hit & batch.valid).sum())
        rows += int(batch.valid.sum())
    return right, rows


def batches(corpus: Corpus, recipe: Recipe, plan: Plan, steps: int) -> Iterator[Batch]:
    """The first `steps` batches of a plan; the last one of an epoch is filled with padding."""
    for task in blocks.read_tasks(corpus, plan, 0, steps, plan.global_batch):
        for block in blocks.read(task, recipe):
            yield to_batch([block], recipe)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
