"""Cached blocks equal decoded blocks bit for bit, and a damaged file is only decoded again."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from support.tars import make_tar
from xmodal.data import synthetic
from xmodal.data.decode.augment import Augment
from xmodal.data.decode.fields import parse_field_map
from xmodal.data.decode.image import ImageField
from xmodal.data.decode.text import TextField
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index.corpus import open_corpus
from xmodal.data.stream import block_cache, blocks
from xmodal.data.stream.block_cache import BlockCache, cache_key
from xmodal.data.stream.blocks import RowDecoder
from xmodal.data.stream.order import StreamPlan

DECODED = []


@dataclass(frozen=True, kw_only=True)
class CountingImageField(ImageField):
    """An image field that records each decode in DECODED."""

    def decode(self, raw, rng, out):
        DECODED.append(self.name)
        super().decode(raw, rng, out)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write 70 scenes as two shards, of which three have no caption, no image, or a damaged one."""
    folder = tmp_path_factory.mktemp("cached")
    samples = [members for _, members in synthetic.scene_samples("photo", 70, 0, size=40)]
    samples[3] = {"jpg": samples[3]["jpg"]}
    samples[40] = {"txt": samples[40]["txt"]}
    samples[41] = samples[41] | {"jpg": samples[41]["jpg"][:200]}
    for number, part in enumerate((samples[:35], samples[35:])):
        (folder / f"{number}.tar").write_bytes(make_tar({f"{k:03d}": sample for k, sample in enumerate(part)})[0])
    return str(folder)


TOKENIZER = train_tokenizer(["a red circle", "a blue square"], 520)


def make_stream(corpus, *, seed=3, size=16, augment=Augment(scale=(0.4, 1.0), jitter=0.5, hue=0.1), batch=8, length=12):  # noqa: B008
    decoder = RowDecoder(
        parse_field_map(("image=jpg", "text=txt")),
        (CountingImageField(size=size, augment=augment), TextField(tokenizer_json=TOKENIZER, length=length)),
    )
    indexed = open_corpus(corpus)
    plan = StreamPlan(indexed.extents.rows, indexed.extents.shard, seed, batch, target_task_rows=32)
    return SimpleNamespace(corpus=indexed, plan=plan, decoder=decoder)


def read_columns(stream, cache, start=0, stop=18, rows_per_block=4):
    """Return every column of the steps `start` to `stop` - 1: two epochs are 18 steps of 8."""
    tasks = blocks.block_tasks(stream.corpus, stream.plan, start, stop, rows_per_block)
    blocks_read = [{name: array.copy() for name, array in block.items()}
             for task in tasks for block in block_cache.read_cached_blocks(task, stream.decoder, cache)]  # fmt: skip
    assert all(len(block["row"]) == rows_per_block for block in blocks_read)
    return {name: np.concatenate([block[name] for block in blocks_read]) for name in stream.decoder.columns}


def equal(first, second):
    return all(first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]) for name in first)


def cache_in(folder, limit_bytes=1 << 30):
    return BlockCache(folder=str(folder), limit_bytes=limit_bytes)


def test_cached_blocks_equal_decoded_blocks_for_any_start_and_block_size(corpus, tmp_path):
    stream, cache = make_stream(corpus), cache_in(tmp_path)
    plain = read_columns(stream, None)
    assert (~plain["valid"] & (plain["row"] >= 0)).sum() == 6  # three masked rows in each epoch, besides the padding
    assert equal(read_columns(stream, cache), plain)
    DECODED.clear()
    again = read_columns(stream, cache)
    assert equal(again, plain) and not DECODED
    assert [f["reason"] for f in blocks.block_faults(again)] == [f["reason"] for f in blocks.block_faults(plain)]
    assert equal(read_columns(stream, cache, rows_per_block=8), plain)
    later = read_columns(stream, cache, start=5)
    assert all(np.array_equal(later[name], plain[name][5 * 8 :]) for name in plain) and not DECODED


def test_the_key_changes_with_everything_that_changes_the_rows(corpus, tmp_path):
    def keys(**changes):
        stream = make_stream(corpus, **changes)
        return {cache_key(task, stream.decoder) for task in blocks.block_tasks(stream.corpus, stream.plan, 0, 18, 4)}

    original_keys = keys()
    assert original_keys == keys() and len(original_keys) == 6  # three tasks in each of two epochs
    for change in ({"seed": 4}, {"size": 17}, {"augment": None}, {"augment": Augment(hue=0.2)}, {"length": 13}):
        assert not original_keys & keys(**change), change
    elsewhere = tmp_path / "copy"
    shutil.copytree(corpus, elsewhere)
    copy = make_stream(str(elsewhere))
    tasks = blocks.block_tasks(copy.corpus, copy.plan, 0, 18, 4)
    assert original_keys.isdisjoint(cache_key(task, copy.decoder) for task in tasks)


def test_a_damaged_file_is_decoded_again_and_rewritten(corpus, tmp_path):
    stream, cache = make_stream(corpus), cache_in(tmp_path)
    plain = read_columns(stream, cache)
    files = sorted(tmp_path.iterdir())
    undamaged = [file.read_bytes() for file in files]
    files[0].write_bytes(undamaged[0][:1000] + bytes([undamaged[0][1000] ^ 1]) + undamaged[0][1001:])  # one bit
    files[1].write_bytes(undamaged[1][:-50])
    files[2].write_bytes(b"")
    files[3].write_bytes(b"\xff" * 100)
    DECODED.clear()
    assert equal(read_columns(stream, cache), plain) and DECODED
    assert [file.read_bytes() for file in files] == undamaged


def test_a_longer_run_extends_the_files_of_a_shorter_one(corpus, tmp_path):
    stream, cache = make_stream(corpus), cache_in(tmp_path)
    read_columns(stream, cache, stop=2)
    plain = read_columns(stream, None, stop=9)
    assert equal(read_columns(stream, cache, stop=9), plain)
    DECODED.clear()
    assert equal(read_columns(stream, cache, stop=9), plain) and not DECODED


def test_a_full_folder_takes_no_more_files_until_unused_ones_are_removed(corpus, tmp_path):
    stream, folder = make_stream(corpus), tmp_path / "full"
    plain = read_columns(stream, None)
    assert equal(read_columns(stream, cache_in(folder, 1000)), plain) and not list(folder.iterdir())
    read_columns(stream, cache_in(folder, 100_000))
    files = list(folder.iterdir())
    assert 0 < sum(file.stat().st_size for file in files) <= 100_000 and len(files) < 6
    (folder / "a.begun").write_bytes(bytes(90_000))  # of a process that was killed
    long_ago = time.time() - 30 * 86_400
    for file in folder.iterdir():
        os.utime(file, (long_ago, long_ago))
    next_stream = make_stream(corpus, seed=9)
    read_columns(next_stream, cache_in(folder, 100_000))
    assert not {*files, folder / "a.begun"} & set(folder.iterdir()) and list(folder.iterdir())


def test_rows_that_storage_could_not_deliver_are_not_cached(corpus, tmp_path):
    moved, folder = tmp_path / "corpus", tmp_path / "cache"
    shutil.copytree(corpus, moved)
    stream = make_stream(str(moved))
    (moved / "1.tar").rename(moved / "hidden")
    incomplete = read_columns(stream, cache_in(folder))
    assert "shard_missing" in {fault["reason"] for fault in blocks.block_faults(incomplete)}
    (moved / "hidden").rename(moved / "1.tar")
    assert equal(read_columns(stream, cache_in(folder)), read_columns(stream, None))


def test_a_reader_that_stops_early_leaves_no_partial_file(corpus, tmp_path):
    stream = make_stream(corpus)
    task = next(blocks.block_tasks(stream.corpus, stream.plan, 0, 18, 4))
    reader = block_cache.read_cached_blocks(task, stream.decoder, cache_in(tmp_path))
    next(reader)
    assert [file.suffix for file in tmp_path.iterdir()] == [".begun"]
    reader.close()
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert BlockCache(folder="auto", limit_bytes=1).directory == Path(tmp_path, "xmodal", "blocks")
    assert BlockCache(folder="/a", limit_bytes=1).directory == Path("/a")
