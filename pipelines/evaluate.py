"""Checkpoint + held-out corpus -> retrieval both ways, beside chance; in this process, without the cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipelines.corpora import field_map
from pipelines.ingest import to_batch
from xmodal import checkpoint, storage
from xmodal.batch import Batch
from xmodal.data import blocks
from xmodal.data.blocks import Recipe
from xmodal.data.corpus import Corpus, open_corpus
from xmodal.data.image import ImageField
from xmodal.data.listing import folder_before_pattern
from xmodal.data.order import Plan
from xmodal.data.text import TextField
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import ConfigError, CorpusError
from xmodal.metrics.retrieval import Retrieval, retrieve_both_ways
from xmodal.storage import StorageOptions
from xmodal.tokenizer_hub import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to evaluate on what."""

    checkpoint: str  # a run, or one of its checkpoints; the newest that verifies is taken
    corpus: str  # pairs that the model has not seen
    fields: tuple[str, ...] = ()  # field map; empty: the usual names
    index: str | None = None  # URI of a cache for indexes; None: beside the corpus
    batch_size: int = 256  # rows encoded at once
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Retrieval over the sound rows of a corpus; pairs with the same caption count as hits of each other."""

    step: int
    rows: int
    skipped: int  # rows that could not be read
    image_to_text: Retrieval
    text_to_image: Retrieval


def run(config: Config) -> Evaluation:
    """Encode every row of the corpus once and search both ways, exactly."""
    options = StorageOptions(
        endpoint=config.endpoint, region=config.region, profile=config.profile, anonymous=config.anonymous
    )
    for uri in (config.checkpoint, folder_before_pattern(config.corpus)):
        storage.check(uri, writable=False, options=options)  # at once, where opening would wait for an outage to end
    corpus = open_corpus(config.corpus, index=config.index, options=options)
    found = checkpoint.resolve(config.checkpoint, options=options)
    with TemporaryDirectory(prefix="xmodal-evaluate-") as scratch:
        directory = checkpoint.fetch(found, Path(scratch), skip=("optimizer.safetensors",), options=options)
        model = DualEncoder.from_pretrained(directory).eval()
        recipe = _recipe(config, corpus, model, load_tokenizer(str(directory)))
    image, text, ids = encode(model, corpus, recipe, config.batch_size)
    if not len(ids):
        raise CorpusError(f"{config.corpus}: none of its {corpus.rows} rows can be read")
    forth, back = retrieve_both_ways(image, text, ids, ids)
    return Evaluation(
        step=found.step, rows=len(ids), skipped=corpus.rows - len(ids), image_to_text=forth, text_to_image=back
    )


def _recipe(config: Config, corpus: Corpus, model: DualEncoder, tokenizer: str) -> Recipe:
    fields = (
        ImageField(size=model.tower("image").intake.size),
        TextField(tokenizer_json=tokenizer, length=model.tower("text").intake.size),
    )
    return Recipe(field_map(corpus, config.fields, ("image", "text")), fields)


@torch.no_grad()
def encode(
    model: DualEncoder, corpus: Corpus, recipe: Recipe, batch_size: int
) -> tuple[Float[Tensor, "Q D"], Float[Tensor, "Q D"], Int64[Tensor, "Q"]]:
    """Embeddings of the image and the text of every sound row, in corpus order, and the identity of its caption."""
    image, text, ids = [], [], []
    for batch in batches(corpus, recipe, batch_size):
        keep = batch.valid
        image.append(model.encode("image", batch)[keep])
        text.append(model.encode("text", batch)[keep])
        ids.append(batch.fields["text_id"][keep])
    return torch.cat(image), torch.cat(text), torch.cat(ids)


def batches(corpus: Corpus, recipe: Recipe, batch_size: int) -> Iterator[Batch]:
    """Every row once, in corpus order; the last batch is filled with padding."""
    plan = Plan(corpus.extents.rows, corpus.extents.shard, 0, batch_size, shuffle=False)
    for task in blocks.read_tasks(corpus, plan, 0, plan.steps_per_epoch, batch_size):
        for block in blocks.read(task, recipe):
            yield to_batch([block], recipe)
