"""`StreamingDataset`: one order for any number of ranks and loader workers, resumed at any step."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import xmodal
from xmodal.batch import Batch
from xmodal.data import synthetic
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.errors import ConfigError, TooManyBadRows
from xmodal.streaming import StreamingDataset

GLOBAL_BATCH, ROWS = 24, 200  # 8 1/3 steps an epoch


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scenes")
    synthetic.write_corpus(str(folder), "photo", ROWS, 0, rows_per_shard=50, size=32)
    return str(folder)


def fields() -> list[ImageField | TextField]:
    tokenizer = train_tokenizer(["a red circle", "a blue square"], 520)
    augment = Augment(scale=(0.5, 1.0), jitter=0.5, brightness=0.2)
    return [ImageField(size=16, augment=augment), TextField(tokenizer_json=tokenizer, length=12)]


def dataset(corpus: str, **options: object) -> StreamingDataset:
    options = {"global_batch": GLOBAL_BATCH, "seed": 5, "rows_per_task": 48} | options
    return StreamingDataset(corpus, fields(), **options)  # type: ignore[arg-type]


def contents(batches: Iterable[Batch]) -> list[list[tuple[int, int, int]]]:
    """Row, sum of pixels and sum of tokens of every row, batch by batch."""
    return [
        [
            (int(row), int(pixels.long().sum()), int(ids.long().sum()))
            for row, pixels, ids in zip(batch.row, batch.fields["image"], batch.fields["text"], strict=True)
        ]
        for batch in batches
    ]


@pytest.fixture(scope="module")
def expected(corpus: str) -> list[list[tuple[int, int, int]]]:
    """The global batches of two epochs, read by one rank."""
    stream = dataset(corpus, read_ahead=0)
    return contents(stream) + contents(stream)


def test_an_epoch_holds_every_row_once_and_pads_its_last_batch(corpus: str, expected: list) -> None:
    steps = len(dataset(corpus))
    assert steps == -(-ROWS // GLOBAL_BATCH) and len(expected) == 2 * steps
    for epoch in (expected[:steps], expected[steps:]):
        rows = [row for batch in epoch for row, _, _ in batch]
        assert sorted(row for row in rows if row >= 0) == list(range(ROWS))
        assert rows.count(-1) == steps * GLOBAL_BATCH - ROWS and all(len(batch) == GLOBAL_BATCH for batch in epoch)
    assert expected[:steps] != expected[steps:]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_ranks_together_hold_the_same_global_batches(corpus: str, expected: list, world_size: int) -> None:
    ranks = [contents(dataset(corpus, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert all(len(share) == GLOBAL_BATCH // world_size for share in shares)
        assert sorted(itertools.chain(*shares)) == sorted(expected[step])


@pytest.mark.parametrize("rows_per_task", [8, 24, 1024])
def test_loader_workers_and_threads_change_nothing(corpus: str, rows_per_task: int) -> None:
    stream = dataset(corpus, rows_per_task=rows_per_task, read_ahead=0)
    alone = contents(stream)
    assert contents(dataset(corpus, rows_per_task=rows_per_task, read_ahead=3)) == alone
    loader = DataLoader(dataset(corpus, rows_per_task=rows_per_task), batch_size=None, num_workers=2)
    assert contents(loader) == alone


@pytest.mark.parametrize("stop", [0, 1, 5, 8, 9, 12])
def test_a_resumed_stream_yields_what_was_left(corpus: str, expected: list, stop: int) -> None:
    first = dataset(corpus)
    endless = itertools.chain.from_iterable(itertools.repeat(first))
    taken = contents(itertools.islice(endless, stop))
    second = dataset(corpus)
    second.load_state_dict(first.state_dict())
    rest = contents(second)
    assert taken + rest == expected[: stop + len(rest)] and (stop + len(rest)) % len(first) == 0


def test_resumed_loader_workers_yield_what_was_left(corpus: str, expected: list) -> None:
    stream = dataset(corpus)
    stream.load_state_dict({"step": 4})
    assert contents(DataLoader(stream, batch_size=None, num_workers=3)) == expected[4 : len(stream)]
    stream.set_epoch(1)
    assert contents(DataLoader(stream, batch_size=None, num_workers=2)) == expected[len(stream) :]


def test_without_shuffling_rows_come_in_the_order_of_the_corpus(corpus: str) -> None:
    rows = torch.cat([batch.row for batch in dataset(corpus, shuffle="off")])
    assert rows[:ROWS].tolist() == list(range(ROWS))


def damaged(folder: Path, bad: int) -> str:
    """A corpus of 60 rows of which `bad` are no images."""
    import io
    import tarfile

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(stream, "JPEG")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in range(60):
            for name, data in (("jpg", b"<html>" if number < bad else stream.getvalue()), ("txt", b"a red circle")):
                member = tarfile.TarInfo(f"{number:03}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(folder)


def test_bad_rows_are_masked_and_recorded(tmp_path: Path) -> None:
    stream = dataset(damaged(tmp_path, 2), max_bad_fraction=0.5)
    with pytest.warns(UserWarning, match="cannot be decoded and is masked.*not_an_image"):
        batches = list(stream)
    masked = {int(row) for batch in batches for row in batch.row[~batch.valid] if row >= 0}
    assert masked == {0, 1} == {record["row"] for record in stream.bad_rows}
    assert sum(int(batch.valid.sum()) for batch in batches) == 58


def test_too_many_bad_rows_stop_the_stream(tmp_path: Path) -> None:
    with pytest.warns(UserWarning), pytest.raises(TooManyBadRows, match=r"of 60 rows .* max_bad_fraction=0.01"):
        list(dataset(damaged(tmp_path, 30)))


def test_impossible_options_are_refused(corpus: str) -> None:
    with pytest.raises(ConfigError, match="global_batch=25 must be a positive multiple of 2 ranks"):
        dataset(corpus, global_batch=25, world_size=2)
    with pytest.raises(ConfigError, match=r"rank=2 must lie in \[0, 2\)"):
        dataset(corpus, rank=2, world_size=2)
    with pytest.raises(ConfigError, match="read_ahead=-1"):
        dataset(corpus, read_ahead=-1)
    with pytest.raises(ConfigError, match="does not name text"):
        dataset(corpus, fields_from=("image=jpg",))
    stream = dataset(corpus)
    stream.load_state_dict({"step": 3, "worker": 1, "workers": 2})
    with pytest.raises(ConfigError, match="worker 1 of 2, not of 0 of 1"):
        next(iter(stream))


def test_the_public_name_is_this_class() -> None:
    assert xmodal.StreamingDataset is StreamingDataset
