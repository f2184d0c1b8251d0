"""Rows from the extent store equal those of the shards, which are read once, whatever happens to the files."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.tars import make_tar, some_samples
from xmodal import storage
from xmodal.data import synthetic
from xmodal.data.formats import extent_reader, extent_store
from xmodal.data.formats.extent_store import ExtentStore
from xmodal.data.index.corpus import open_corpus, read_extent


@pytest.fixture
def store(tmp_path):
    return ExtentStore(folder=str(tmp_path / "store"))


def tar_corpus(folder, coding=""):
    synthetic.write_corpus(str(folder), "photo", rows=300, seed=0, size=16, rows_per_shard=300)
    if coding:
        path = folder / "photo-00000.tar"
        (folder / "photo-00000.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


def parquet_corpus(folder, group_rows):
    """Write 3,000 rows with nested, missing and odd values, in row groups of `group_rows` rows."""
    folder.mkdir()
    rows = range(3000)
    table = pa.table(
        {
            "image": [b"\x00" * (i % 50) for i in rows],
            "text": [None if i % 7 == 0 else f"text {i}" for i in rows],
            "captions": [[f"a {i}", None] if i % 3 else [] for i in rows],
            "meta": [{"n": i, "tags": ["x"] * (i % 3)} for i in rows],
        }
    )
    pq.write_table(table, folder / "0.parquet", row_group_size=group_rows)
    return folder


def sample_rows(corpus, store, columns=None):
    """Return some rows of every extent, from the store and from the shards."""
    for extent in range(len(corpus.extents)):
        rows = [int(corpus.extents.rows[extent]) - 1, 0, int(corpus.extents.rows[extent]) // 2]
        whole = read_extent(corpus, extent, columns=columns)
        yield store.read_rows(corpus, extent, rows, columns), [whole[row] for row in rows]


@pytest.mark.parametrize("columns", [None, ("jpg", "txt")])
@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize("hashes", [False, True])
def test_rows_of_a_tar_are_those_of_its_extents(tmp_path, store, columns, coding, hashes):
    corpus = open_corpus(str(tar_corpus(tmp_path / "c", coding)), hash_extents=hashes)
    for _ in range(2):  # first fetched, then from the store
        for found, expected in sample_rows(corpus, store, columns):
            assert found == expected
    stored = sum(file.stat().st_size for file in store.directory.iterdir())
    copied = coding or hashes
    assert stored > 300_000 if copied else stored < 10_000  # a local tar is not copied


@pytest.mark.parametrize("columns", [None, ("image", "text"), ("captions", "meta")])
@pytest.mark.parametrize("group_rows", [256, 1024, 3000])
def test_rows_of_parquet_are_those_of_its_extents_and_each_row_group_is_read_once(
    tmp_path, store, columns, group_rows, monkeypatch
):
    corpus = open_corpus(str(parquet_corpus(tmp_path / "c", group_rows)))
    expected = [pair[1] for pair in sample_rows(corpus, store, columns)]
    read = []
    whole = extent_store.read_row_group
    monkeypatch.setattr(extent_store, "read_row_group", lambda e, g, c: read.append(g.number) or whole(e, g, c))
    for path in store.directory.iterdir():
        path.unlink()
    for _ in range(2):
        assert [pair[0] for pair in sample_rows(corpus, store, columns)] == expected
    assert sorted(read) == list(range(-(-3000 // group_rows)))


def test_a_stored_extent_is_not_read_from_storage_again(tmp_path, store, monkeypatch):
    corpus = open_corpus(str(tar_corpus(tmp_path / "c", "gzip")))
    expected = [pair[1] for pair in sample_rows(corpus, store)]
    monkeypatch.setattr(storage, "read", None)
    for extent, rows in enumerate(expected):
        last = int(corpus.extents.rows[extent]) - 1
        assert store.read_rows(corpus, extent, [last], None) == [rows[0]]


@pytest.mark.parametrize("damage", [b"", b"short", None])
@pytest.mark.parametrize("make", [lambda folder: tar_corpus(folder, "gzip"), lambda f: parquet_corpus(f, 700)])
def test_a_file_that_is_damaged_or_gone_is_made_again(tmp_path, store, damage, make):
    corpus = open_corpus(str(make(tmp_path / "c")))
    list(sample_rows(corpus, store))
    for file in store.directory.iterdir():
        file.unlink() if damage is None else file.write_bytes(damage)
    for found, expected in sample_rows(corpus, store):
        assert found == expected
    assert all(file.stat().st_size > 100 for file in store.directory.iterdir())


def test_a_damaged_shard_gives_the_same_faults_and_is_not_stored(tmp_path, store):
    data, _ = make_tar(some_samples(40))
    path = tmp_path / "c" / "0.tar"
    path.parent.mkdir()
    path.write_bytes(data)
    corpus = open_corpus(str(path.parent), hash_extents=True)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    path.write_bytes(flipped)
    found = store.read_rows(corpus, 0, [3, 20], None)
    assert [sample.fault.reason for sample in found] == ["hash_mismatch"] * 2
    path.unlink()
    assert [sample.fault.reason for sample in store.read_rows(corpus, 0, [3], None)] == ["shard_missing"]
    assert not store.directory.exists() or not list(store.directory.iterdir())


def test_a_local_tar_that_is_replaced_is_noticed(tmp_path, store):
    corpus = open_corpus(str(tar_corpus(tmp_path / "c")))
    assert store.read_rows(corpus, 0, [1], None)[0].fault is None
    Path(tmp_path, "c", "photo-00000.tar").write_bytes(b"another")
    assert store.read_rows(corpus, 0, [1], None)[0].fault.reason == "shard_changed"


def test_the_oldest_files_make_room_and_nothing_is_lost(tmp_path):
    corpus = open_corpus(str(parquet_corpus(tmp_path / "c", 256)))
    whole = ExtentStore(folder=str(tmp_path / "whole"))
    list(sample_rows(corpus, whole))
    total = sum(file.stat().st_size for file in whole.directory.iterdir())
    small = ExtentStore(folder=str(tmp_path / "small"), limit_bytes=total // 3)
    for found, expected in sample_rows(corpus, small):
        assert found == expected
    assert 0 < sum(file.stat().st_size for file in small.directory.iterdir()) <= total // 3
    none = ExtentStore(folder=str(tmp_path / "none"), limit_bytes=10)
    for found, expected in sample_rows(corpus, none):
        assert found == expected


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("")
    corpus = open_corpus(str(tar_corpus(tmp_path / "c", "gzip")))
    for found, expected in sample_rows(corpus, ExtentStore(folder=str(tmp_path / "file" / "store"))):
        assert found == expected


def test_readers_that_come_at_once_get_the_same_rows(tmp_path, store):
    corpus = open_corpus(str(tar_corpus(tmp_path / "c", "gzip")))
    expected = extent_reader.read_extent(corpus, 0)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: store.read_rows(corpus, 0, [row], None)[0], range(100)))
    assert found == expected[:100]
    assert not list(store.directory.glob("*.begun"))
