"""The dataset for plain PyTorch loops yields the very batches of the stream on Ray."""

import pytest
import torch

from pipelines.stream import corpora, ingest
from pipelines.stream.corpora import DataConfig
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index import field_maps
from xmodal.data.index.corpus import open_corpus
from xmodal.streaming import StreamingDataset

pytestmark = [pytest.mark.ray]

GLOBAL_BATCH, SEED = 24, 5


@pytest.mark.parametrize("rows_per_task", [8, 48])
def test_both_yield_the_same_batches(scenes: str, ray_here: object, rows_per_task: int) -> None:
    """Two epochs of one rank: rows, masks, pixels and tokens, bit for bit."""
    tokenizer = train_tokenizer(["a red circle", "a blue square"], 520)
    augment = Augment(scale=(0.5, 1.0), jitter=0.5, brightness=0.2)
    fields = (ImageField(size=16, augment=augment), TextField(tokenizer_json=tokenizer, length=12))
    corpus = open_corpus(scenes)
    dataset = StreamingDataset(corpus, fields, global_batch=GLOBAL_BATCH, seed=SEED, rows_per_task=rows_per_task)
    data = DataConfig(corpus=(scenes,), rows_per_task=rows_per_task)
    maps = [field_maps.field_map(corpus, (), ("image", "text"))]
    streams = corpora.build_streams(data, [corpus], maps, fields, batch_size=GLOBAL_BATCH, workers=[1], seed=SEED)
    steps = 2 * len(dataset)
    delivered = ingest.step_batches(
        streams, 0, steps, rank=0, world_size=1, share=lambda value: value, reserved={}, most_tasks=4096
    )
    batches = [*dataset, *dataset]
    for ours, theirs in zip(batches, [step.batch for step in delivered], strict=True):
        assert torch.equal(ours.row, theirs.row) and torch.equal(ours.valid, theirs.valid)
        assert ours.fields.keys() == theirs.fields.keys()
        assert all(torch.equal(column, theirs.fields[name]) for name, column in ours.fields.items())
