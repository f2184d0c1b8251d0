"""Evaluate a classifier on labelled clips: accuracy of the fusion and of each head, with chance, as JSON."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from pipelines.config.evaluate import EvaluateConfig
from pipelines.inference.evaluation_records import Evaluation, result_folder, store_evaluation
from pipelines.models.loaded_classifier import fetch_classifier
from xmodal import storage
from xmodal.batch import Batch
from xmodal.checkpoint import CheckpointRef
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.stream import blocks
from xmodal.data.stream.blocks import RowDecoder
from xmodal.data.stream.order import StreamPlan
from xmodal.encoders.multimodal_classifier import MultimodalClassifier
from xmodal.errors import ConfigError, CorpusError
from xmodal.metrics.bootstrap import interval_of_share
from xmodal.streaming import batch_of_blocks


def run(config: EvaluateConfig, ref: CheckpointRef) -> Evaluation:
    """Classify every row of the corpus once, each clip by the middle of its window."""
    _check_tasks(config)
    folder = result_folder(config, ref)
    classifier = fetch_classifier(ref, config.storage)
    classes = classifier.classes
    corpus = open_corpus(config.corpus, index=config.index, options=config.storage)
    correct, rows = _count_correct(
        classifier.model, corpus, classifier.decoder(corpus, config.fields), config.batch_size
    )
    if not rows:
        raise CorpusError(f"{config.corpus}: none of its {corpus.rows} rows can be read and has a class that is known")
    shares = {f"accuracy/{name}": count / rows for name, count in correct.items()}
    intervals = {
        name: interval_of_share(share, rows, draws=config.bootstrap, seed=config.seed) for name, share in shares.items()
    }
    result = Evaluation(
        checkpoint=ref.uri, step=ref.step, corpus=storage.absolute(config.corpus), fingerprint=corpus.fingerprint,
        rows=rows, skipped=corpus.rows - rows, metrics=shares, interval=intervals,
        chance=dict.fromkeys(shares, 1 / len(classes)),
        settings={"bootstrap": config.bootstrap, "seed": config.seed, "classes": len(classes)}, result_uri=folder,
    )  # fmt: skip
    return store_evaluation(config, result)


def _check_tasks(config: EvaluateConfig) -> None:
    flags = [name for name in ("label", "classes", "templates", "probe_train") if getattr(config, name)]
    if flags:
        flag = flags[0].replace("_", "-")
        raise ConfigError(f"--{flag} is for dual encoders: {config.checkpoint} is a classifier and knows its classes")


def _count_correct(
    model: MultimodalClassifier, corpus: Corpus, decoder: RowDecoder, size: int
) -> tuple[dict[str, int], int]:
    """Count the rows that the fusion, each head and the mean of the heads classify correctly, and all rows."""
    names = ("multimodal", *model.modalities, "ensemble")
    correct, rows = dict.fromkeys(names, 0), 0
    plan = StreamPlan(corpus.extents.rows, corpus.extents.shard, 0, size, shuffle="off")
    for batch in batches(corpus, decoder, plan, plan.steps_per_epoch):
        scores = model.scores(batch.to(_device()))
        scores["ensemble"] = torch.stack([F.softmax(scores[name], 1) for name in model.modalities]).mean(0)
        for name in names:
            hit = scores[name].argmax(1).cpu() == batch.fields["label"]
            correct[name] += int((hit & batch.valid).sum())
        rows += int(batch.valid.sum())
    return correct, rows


def batches(corpus: Corpus, decoder: RowDecoder, plan: StreamPlan, steps: int) -> Iterator[Batch]:
    """Yield the first `steps` batches of a plan; the last one of an epoch is filled with padding."""
    for task in blocks.block_tasks(corpus, plan, 0, steps, plan.global_batch):
        for block in blocks.read_blocks(task, decoder):
            yield batch_of_blocks([block], decoder.columns)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
