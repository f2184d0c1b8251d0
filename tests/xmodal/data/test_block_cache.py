"""Kept blocks are those that decoding gives, bit for bit, and whatever is wrong with a file costs only its decoding."""

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
from xmodal.data.stream.block_cache import BlockCache, key_of
from xmodal.data.stream.blocks import Recipe
from xmodal.data.stream.order import Plan

DECODED = []


@dataclass(frozen=True, kw_only=True)
class Counting(ImageField):
    """An image that notes when it is decoded."""

    def decode(self, raw, rng, out):
        DECODED.append(self.name)
        super().decode(raw, rng, out)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """70 scenes in two shards, of which three have no caption, no picture or a broken one."""
    folder = tmp_path_factory.mktemp("kept")
    samples = [members for _, members in synthetic.samples("photo", 70, 0, size=40)]
    samples[3] = {"jpg": samples[3]["jpg"]}
    samples[40] = {"txt": samples[40]["txt"]}
    samples[41] = samples[41] | {"jpg": samples[41]["jpg"][:200]}
    for number, part in enumerate((samples[:35], samples[35:])):
        (folder / f"{number}.tar").write_bytes(make_tar({f"{k:03d}": one for k, one in enumerate(part)})[0])
    return str(folder)


TOKENIZER = train_tokenizer(["a red circle", "a blue square"], 520)


def made(corpus, *, seed=3, size=16, augment=Augment(scale=(0.4, 1.0), jitter=0.5, hue=0.1), batch=8, length=12):  # noqa: B008
    recipe = Recipe(
        parse_field_map(("image=jpg", "text=txt")),
        (Counting(size=size, augment=augment), TextField(tokenizer_json=TOKENIZER, length=length)),
    )
    opened = open_corpus(corpus)
    plan = Plan(opened.extents.rows, opened.extents.shard, seed, batch, task_rows_wanted=32)
    return SimpleNamespace(corpus=opened, plan=plan, recipe=recipe)


def delivered(stream, cache, start=0, stop=18, rows_per_block=4):
    """Every column of steps `start` to `stop` - 1: two epochs are 18 steps of 8."""
    tasks = blocks.read_tasks(stream.corpus, stream.plan, start, stop, rows_per_block)
    found = [{name: array.copy() for name, array in block.items()}
             for task in tasks for block in block_cache.read(task, stream.recipe, cache)]  # fmt: skip
    assert all(len(block["row"]) == rows_per_block for block in found)
    return {name: np.concatenate([block[name] for block in found]) for name in stream.recipe.columns}


def equal(one, other):
    return all(one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one)


def cache_in(folder, limit_bytes=1 << 30):
    return BlockCache(folder=str(folder), limit_bytes=limit_bytes)


def test_what_is_kept_is_what_decoding_gives_wherever_a_run_begins_and_however_it_is_cut(corpus, tmp_path):
    stream, cache = made(corpus), cache_in(tmp_path)
    plain = delivered(stream, None)
    assert (~plain["valid"] & (plain["row"] >= 0)).sum() == 6  # three masked rows in each epoch, beside the padding
    assert equal(delivered(stream, cache), plain)
    DECODED.clear()
    again = delivered(stream, cache)
    assert equal(again, plain) and not DECODED
    assert [f["reason"] for f in blocks.faults(again)] == [f["reason"] for f in blocks.faults(plain)]
    assert equal(delivered(stream, cache, rows_per_block=8), plain)
    later = delivered(stream, cache, start=5)
    assert all(np.array_equal(later[name], plain[name][5 * 8 :]) for name in plain) and not DECODED


def test_rows_that_something_else_decodes_or_orders_are_others(corpus, tmp_path):
    def keys(**changes):
        stream = made(corpus, **changes)
        return {key_of(task, stream.recipe) for task in blocks.read_tasks(stream.corpus, stream.plan, 0, 18, 4)}

    known = keys()
    assert known == keys() and len(known) == 6  # three tasks in each of two epochs
    for change in ({"seed": 4}, {"size": 17}, {"augment": None}, {"augment": Augment(hue=0.2)}, {"length": 13}):
        assert not known & keys(**change), change
    elsewhere = tmp_path / "copy"
    shutil.copytree(corpus, elsewhere)
    copied = made(str(elsewhere))
    tasks = blocks.read_tasks(copied.corpus, copied.plan, 0, 18, 4)
    assert known.isdisjoint(key_of(task, copied.recipe) for task in tasks)


def test_a_damaged_file_is_decoded_anew_and_mended(corpus, tmp_path):
    stream, cache = made(corpus), cache_in(tmp_path)
    plain = delivered(stream, cache)
    files = sorted(tmp_path.iterdir())
    sound = [file.read_bytes() for file in files]
    files[0].write_bytes(sound[0][:1000] + bytes([sound[0][1000] ^ 1]) + sound[0][1001:])  # one bit
    files[1].write_bytes(sound[1][:-50])
    files[2].write_bytes(b"")
    files[3].write_bytes(b"\xff" * 100)
    DECODED.clear()
    assert equal(delivered(stream, cache), plain) and DECODED
    assert [file.read_bytes() for file in files] == sound


def test_a_longer_run_completes_what_a_shorter_one_kept(corpus, tmp_path):
    stream, cache = made(corpus), cache_in(tmp_path)
    delivered(stream, cache, stop=2)
    plain = delivered(stream, None, stop=9)
    assert equal(delivered(stream, cache, stop=9), plain)
    DECODED.clear()
    assert equal(delivered(stream, cache, stop=9), plain) and not DECODED


def test_a_full_folder_takes_no_more_and_what_is_forgotten_makes_room(corpus, tmp_path):
    stream, folder = made(corpus), tmp_path / "full"
    plain = delivered(stream, None)
    assert equal(delivered(stream, cache_in(folder, 1000)), plain) and not list(folder.iterdir())
    delivered(stream, cache_in(folder, 100_000))
    kept = list(folder.iterdir())
    assert 0 < sum(file.stat().st_size for file in kept) <= 100_000 and len(kept) < 6
    (folder / "a.begun").write_bytes(bytes(90_000))  # somebody was killed there
    long_ago = time.time() - 30 * 86_400
    for file in folder.iterdir():
        os.utime(file, (long_ago, long_ago))
    other = made(corpus, seed=9)
    delivered(other, cache_in(folder, 100_000))
    assert not {*kept, folder / "a.begun"} & set(folder.iterdir()) and list(folder.iterdir())


def test_what_the_store_could_not_give_is_not_kept(corpus, tmp_path):
    gone, folder = tmp_path / "corpus", tmp_path / "cache"
    shutil.copytree(corpus, gone)
    stream = made(str(gone))
    (gone / "1.tar").rename(gone / "hidden")
    lost = delivered(stream, cache_in(folder))
    assert "shard_missing" in {fault["reason"] for fault in blocks.faults(lost)}
    (gone / "hidden").rename(gone / "1.tar")
    assert equal(delivered(stream, cache_in(folder)), delivered(stream, None))


def test_a_reader_that_leaves_early_leaves_nothing_half_written(corpus, tmp_path):
    stream = made(corpus)
    task = next(blocks.read_tasks(stream.corpus, stream.plan, 0, 18, 4))
    reading = block_cache.read(task, stream.recipe, cache_in(tmp_path))
    next(reading)
    assert [file.suffix for file in tmp_path.iterdir()] == [".begun"]
    reading.close()
    assert not list(tmp_path.iterdir())


def test_without_a_name_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert BlockCache(folder="auto", limit_bytes=1).place == Path(tmp_path, "xmodal", "blocks")
    assert BlockCache(folder="/a", limit_bytes=1).place == Path("/a")
