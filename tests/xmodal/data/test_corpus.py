"""Corpora: every form of URI, the index and when it is rebuilt, and reading shards that changed or are damaged."""

import gzip
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.tars import make_tar, some_samples
from xmodal import storage
from xmodal.data.formats import extent_reader
from xmodal.data.formats.byte_source import StorageSource
from xmodal.data.formats.lru_cache import LRUCache
from xmodal.data.formats.shard_writer import parquet_shard, write_shards
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index import shard_indexer
from xmodal.data.index.corpus import (
    Corpus,
    Damage,
    Extents,
    RawSample,
    Shard,
    damage_summary,
    index_shard,
    open_corpus,
    read_extent,
)
from xmodal.data.index.listing import expand_braces
from xmodal.errors import BadSample, CorpusError, StorageError


def save(folder: Path, name: str, prefix: str = "", count: int = 6) -> Path:
    """Write a tar of samples whose keys start with `prefix`."""
    samples = {f"{prefix}{key}": members for key, members in some_samples(count).items()}
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_tar(samples)[0])
    return path


def rows_of(corpus: Corpus) -> list[RawSample]:
    samples = []
    for extent in range(len(corpus.extents)):
        rows = read_extent(corpus, extent)
        assert len(rows) == corpus.extents.rows[extent]
        samples += rows
    return samples


def keys_of(corpus: Corpus) -> list[str]:
    return [sample.key for sample in rows_of(corpus) if sample.fault is None]


def faults_of(corpus: Corpus) -> list[str]:
    return [sample.fault.reason if sample.fault else "" for sample in rows_of(corpus)]


@pytest.fixture
def three(tmp_path) -> Path:
    for i, letter in enumerate("abc"):
        save(tmp_path, f"{i:05d}.tar", letter)
    return tmp_path


def test_a_folder_a_file_a_range_a_list_and_a_glob_are_corpora(three):
    everything = keys_of(open_corpus(str(three)))
    assert len(everything) == 18 and everything == sorted(everything)
    assert keys_of(open_corpus(str(three / "00001.tar"))) == everything[6:12]
    assert keys_of(open_corpus(f"{three}/{{00000..00001}}.tar")) == everything[:12]
    assert keys_of(open_corpus(f"{three}/{{00000,00002}}.tar")) == everything[:6] + everything[12:]
    assert keys_of(open_corpus(f"{three}/0000[12].tar")) == everything[6:]
    assert keys_of(open_corpus(f"file://{three}/")) == everything
    assert len(list(three.glob("_xmodal_index*.parquet"))) == 5  # each subset has an index of its own


def test_relative_paths_work(three, monkeypatch):
    monkeypatch.chdir(three)
    assert len(keys_of(open_corpus("."))) == 18 and len(keys_of(open_corpus("00000.tar"))) == 6
    assert len(keys_of(open_corpus("{00000..00002}.tar"))) == 18


def test_subfolders_belong_to_the_corpus_and_keys_may_repeat_between_shards(tmp_path):
    save(tmp_path, "x/0.tar")
    save(tmp_path, "y/0.tar")
    corpus = open_corpus(str(tmp_path))
    assert [shard.path for shard in corpus.shards] == ["x/0.tar", "y/0.tar"]
    assert len(keys_of(corpus)) == 12 and not corpus.damage


def test_braces_expand_as_in_webdataset():
    assert list(expand_braces("{08..10}.tar")) == ["08.tar", "09.tar", "10.tar"]
    assert list(expand_braces("{a,b}/{0..1}")) == ["a/0", "a/1", "b/0", "b/1"]
    assert list(expand_braces("{2..0}{x}")) == ["2{x}", "1{x}", "0{x}"]
    for bomb in ("{0..9999999999}", "{0..99999}{0..999}{0..999}"):
        with pytest.raises(CorpusError, match="more than"):
            list(expand_braces(bomb))


def test_a_pattern_that_names_missing_files_is_rejected(three):
    with pytest.raises(CorpusError, match=r"2 do not exist, first 00003\.tar, 00004\.tar"):
        open_corpus(f"{three}/{{00000..00004}}.tar")


@pytest.mark.parametrize("uri", ["nowhere", "nowhere/{0..3}.tar", "empty", "notes.txt"])
def test_an_error_names_the_uri_that_is_no_corpus(tmp_path, uri):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CorpusError, match=uri.split("{")[0].rstrip("/")):
        open_corpus(str(tmp_path / uri))


def test_an_error_for_a_corpus_without_a_usable_sample_describes_its_shards(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"<html>" * 200)
    (tmp_path / "1.tar").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"0\.tar at byte 0: not_a_tar .*1\.tar at byte 0: empty_shard.*replace"):
        open_corpus(str(tmp_path))


def test_other_files_are_ignored_and_named(three):
    extra = ["_SUCCESS", "a.tar.crc", "b.tar~", "c.tar.part", "sizes.json", "00000_stats.json", "_tmp/d.tar", ".e.tar"]
    for name in extra:
        (three / name).parent.mkdir(exist_ok=True)
        (three / name).write_bytes(b"x")
    (three / "00000.parquet").write_bytes(parquet_shard([("a", {"caption": "metadata"})]))
    messages: list[str] = []
    corpus = open_corpus(str(three), notify=messages.append)
    assert corpus.format == "tar" and corpus.rows == 18
    assert set(corpus.ignored) == {*extra, "00000.parquet"}
    assert "the folder holds tar and Parquet files" in messages[0]
    assert "ignored 7 files" in messages[1]  # _SUCCESS is expected and not counted


def test_a_stored_index_is_loaded_unchanged(three):
    built = open_corpus(str(three))
    work: list = []
    loaded = open_corpus(str(three), map_shards=lambda f, entries: map(f, work.extend(entries) or entries))
    assert not work and loaded.fingerprint == built.fingerprint
    assert loaded.shards == built.shards and loaded.damage == built.damage and loaded.fields == ("jpg", "txt")
    for name in ("shard", "first_row", "rows", "offset", "length"):
        assert np.array_equal(getattr(loaded.extents, name), getattr(built.extents, name))
        assert getattr(loaded.extents, name).dtype == getattr(built.extents, name).dtype


def test_only_changed_and_new_shards_are_indexed_again_and_the_message_names_them(three):
    before = open_corpus(str(three))
    save(three, "00001.tar", "changed")
    save(three, "00003.tar", "new")
    (three / "00000.tar").unlink()
    messages: list[str] = []
    work: list = []
    after = open_corpus(
        str(three), notify=messages.append, map_shards=lambda f, entries: map(f, work.extend(entries) or entries)
    )
    assert [Path(entry.uri).name for entry in work] == ["00001.tar", "00003.tar"]
    assert messages == [
        "1 shard changed since it was indexed: 00001.tar",
        "1 shard not indexed yet: 00003.tar",
        "1 shard no longer there: 00000.tar",
    ]
    assert keys_of(after) == [f"{p}{k}" for p in ("changed", "c", "new") for k in some_samples()]
    assert after.fingerprint != before.fingerprint
    assert open_corpus(str(three)).fingerprint == after.fingerprint == open_corpus(str(three), rebuild=True).fingerprint


def test_extents_keep_their_order_when_an_index_is_merged(tmp_path):
    for name in "abcd":
        write = write_shards(
            ((f"{i:04d}", {"n": i}) for i in range(3000)), str(tmp_path), format="parquet", prefix=name
        )
        list(write)
    open_corpus(str(tmp_path))
    os.utime(tmp_path / "b00000.parquet")
    extents = open_corpus(str(tmp_path)).extents
    assert extents.shard.tolist() == sorted(extents.shard.tolist())
    assert extents.first_row.tolist() == list(range(0, 3000, 256)) * 4


def test_indexing_may_run_in_parallel_and_out_of_order(three):
    expected = open_corpus(str(three), rebuild=True).fingerprint
    progress: list = []

    def map_in_reverse(function, entries):
        function = pickle.loads(pickle.dumps(function))
        with ThreadPoolExecutor(3) as pool:
            return reversed(list(pool.map(function, entries)))

    corpus = open_corpus(
        str(three), rebuild=True, map_shards=map_in_reverse, progress=lambda done, total: progress.append((done, total))
    )
    assert corpus.fingerprint == expected and progress == [(1, 3), (2, 3), (3, 3)]


def test_the_fingerprint_depends_on_the_content_and_not_on_the_location(three, tmp_path_factory):
    corpus = open_corpus(str(three))
    copy = tmp_path_factory.mktemp("copy")
    for path in three.glob("*.tar"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert open_corpus(str(copy)).fingerprint == corpus.fingerprint
    save(copy, "00002.tar", "c", count=5)
    assert open_corpus(str(copy)).fingerprint != corpus.fingerprint


def test_the_index_can_be_stored_in_another_folder(three, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    open_corpus(str(three), index=str(cache))
    assert not list(three.glob("_xmodal*")) and len(list(cache.iterdir())) == 1
    assert (
        open_corpus(
            str(three), index=str(cache), map_shards=lambda f, entries: [1 / len(entries)] if entries else []
        ).rows
        == 18
    )


def test_an_index_that_cannot_be_stored_is_reported_and_the_corpus_opens(three, monkeypatch):
    def deny(uri, data, **options):
        raise StorageError(f"{uri}: permission denied")

    monkeypatch.setattr(storage, "write", deny)
    messages: list[str] = []
    assert open_corpus(str(three), notify=messages.append).rows == 18
    assert "permission denied" in messages[0]


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-10], lambda d: d[: len(d) // 2], lambda d: b"", lambda d: parquet_shard([("a", {"b": "c"})])],
    ids=["cut", "half", "empty", "another file"],
)
def test_a_damaged_index_is_built_again(three, damage):
    expected = open_corpus(str(three)).fingerprint
    path = three / "_xmodal_index.parquet"
    path.write_bytes(damage(path.read_bytes()))
    messages: list[str] = []
    assert open_corpus(str(three), notify=messages.append).fingerprint == expected
    assert "is damaged" in messages[0]


@pytest.mark.parametrize("wrong", [{"shard": [7]}, {"rows": [0]}, {"offset": [-1]}, {"length": [1 << 40]}])
def test_an_index_with_impossible_numbers_is_not_used(three, wrong):
    corpus = open_corpus(str(three / "00000.tar"))
    extents = replace(
        corpus.extents, **{name: np.array(v, getattr(corpus.extents, name).dtype) for name, v in wrong.items()}
    )
    data = stored_index.dump_index(stored_index.CorpusIndex("tar", corpus.shards, extents, ()))
    with pytest.raises(stored_index.DamagedIndexError):
        stored_index.parse_index(data, "x")


def test_the_error_for_an_index_of_a_newer_format_names_the_fix(three, monkeypatch):
    monkeypatch.setattr(stored_index, "VERSION", 2)
    open_corpus(str(three))
    monkeypatch.setattr(stored_index, "VERSION", 1)
    with pytest.raises(CorpusError, match=r"newer xmodal \(index format 2.*upgrade xmodal.*rebuild"):
        open_corpus(str(three))
    assert open_corpus(str(three), rebuild=True).rows == 18


def test_damage_is_part_of_the_corpus_and_of_its_stored_index(three):
    path = three / "00001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    messages: list[str] = []
    corpus = open_corpus(str(three), notify=messages.append)
    assert corpus.damage and {d.shard for d in corpus.damage} == {"00001.tar"}
    assert open_corpus(str(three)).damage == corpus.damage
    assert sum(damage_summary(corpus.damage).values()) == len(corpus.damage)
    assert messages[-1].startswith("damage: cut_in_header 1; first: 00001.tar at byte 2560")
    assert all(not sample.fault for sample in rows_of(corpus))


def test_a_corpus_pickles_without_its_cached_properties(three):
    corpus = open_corpus(str(three))
    size = len(pickle.dumps(corpus))
    assert corpus.row_start.tolist() == [0, 6, 12] and corpus.rows == 18 and corpus.fingerprint
    copy = pickle.loads(pickle.dumps(corpus))
    assert len(pickle.dumps(corpus)) == size < 3000
    assert copy.fingerprint == corpus.fingerprint and keys_of(copy) == keys_of(corpus)


def test_two_million_extents_are_stored_and_loaded_fast():
    count = 2_000_000
    shard = np.repeat(np.arange(10_000, dtype=np.int32), 200)
    length = np.full(count, 10_000_000, np.int64)
    offset = (np.arange(count, dtype=np.int64) % 200) * 10_000_000
    extents = Extents(shard, np.arange(count) % 200 * 500, np.full(count, 500, np.int32), offset, length)
    shards = tuple(
        Shard(f"{i:05d}.tar", 2_000_000_000, "e" * 32, 100_000, fields=("jpg", "txt")) for i in range(10_000)
    )
    data = stored_index.dump_index(stored_index.CorpusIndex("tar", shards, extents, ()))
    start = time.process_time()
    index = stored_index.parse_index(data, "x")
    assert time.process_time() - start < 3  # 0.3 s on an idle core
    corpus = Corpus("s3://bucket/simulated", index.format, index.shards, index.extents)
    assert corpus.rows == 10**9 and corpus.row_start[-1] == 10**9 - 500
    assert len(data) < 20_000_000


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def _replace(path: Path) -> None:
    path.write_bytes(make_tar({f"z{k}": m for k, m in some_samples().items()})[0])
    os.utime(path, ns=(1, 1))


def _patch_silently(path: Path) -> None:
    status, data = path.stat(), bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "reason"), [(Path.unlink, "shard_missing"), (_cut, "shard_changed"), (_replace, "shard_changed")]
)
@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_a_shard_that_changed_after_indexing_gives_faults_and_never_wrong_rows(tmp_path, change, reason, format):
    for number, letter in enumerate("ab"):
        samples = ((f"{letter}{k}", m) for k, m in some_samples().items())
        list(write_shards(samples, str(tmp_path), format=format, first_number=number))
    corpus = open_corpus(str(tmp_path))
    change(tmp_path / f"00000.{format}")
    assert faults_of(corpus) == [reason] * 6 + [""] * 6
    assert all(sample.fault.detail for sample in rows_of(corpus)[:6])


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_a_hash_detects_a_flipped_bit_that_nothing_else_shows(tmp_path, format):
    list(write_shards(iter(some_samples().items()), str(tmp_path), format=format))
    plain = open_corpus(str(tmp_path))
    messages: list[str] = []
    hashed = open_corpus(str(tmp_path), hash_extents=True, notify=messages.append)
    assert "has no hashes" in messages[0] and hashed.fingerprint != plain.fingerprint
    assert set(faults_of(hashed)) == {""}
    _patch_silently(tmp_path / f"00000.{format}")
    extent_reader._tables.clear()
    assert set(faults_of(open_corpus(str(tmp_path)))) == {"hash_mismatch"}  # the stored hashes stay in use
    if format == "tar":
        assert set(faults_of(plain)) == {""}


def test_a_matching_hash_overrides_a_new_time_stamp(three):
    corpus = open_corpus(str(three), hash_extents=True)
    os.utime(three / "00000.tar")
    assert set(faults_of(corpus)) == {""}


def test_new_shards_of_a_hashed_corpus_are_hashed_and_damaged_ones_are_tolerated(three):
    open_corpus(str(three), hash_extents=True)
    save(three, "00003.tar", "d")
    (three / "00004.tar").write_bytes(b"")
    corpus = open_corpus(str(three))
    assert corpus.extents.sha256 is not None and corpus.extents.sha256.shape == (4, 32)
    assert len(keys_of(corpus)) == 24


class Failing:
    """Replaces `storage.read`: fails the first `times` reads."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.real = error, times, storage.read

    def __call__(self, *args, **options):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return self.real(*args, **options)


@pytest.mark.parametrize("error", [storage.NotFound("x"), storage.FileChanged("x"), storage.ShortRead("x")])
def test_an_extent_is_read_again_before_its_rows_are_given_up(three, monkeypatch, error):
    corpus = open_corpus(str(three))
    monkeypatch.setattr(storage, "read", Failing(error, 1))
    assert [sample.fault for sample in read_extent(corpus, 0)] == [None] * 6
    monkeypatch.setattr(storage, "read", Failing(error, 2))
    assert len({sample.fault.reason for sample in read_extent(corpus, 0)}) == 1


def test_a_second_read_recovers_from_bytes_corrupted_in_transfer(three, monkeypatch):
    corpus = open_corpus(str(three), hash_extents=True)
    real, calls = storage.read, []

    def flip(*args, **options):
        data = real(*args, **options)
        calls.append(1)
        return bytes([data[0] ^ 1]) + data[1:] if len(calls) == 1 else data

    monkeypatch.setattr(storage, "read", flip)
    assert {sample.fault for sample in read_extent(corpus, 0)} == {None} and len(calls) == 2


def test_a_storage_outage_is_raised_and_not_turned_into_faults(three, monkeypatch):
    corpus = open_corpus(str(three))
    monkeypatch.setattr(storage, "read", Failing(StorageError("down"), 1))
    with pytest.raises(StorageError, match="down"):
        read_extent(corpus, 0)


def test_a_shard_that_disappears_while_it_is_indexed_is_damage(three, monkeypatch):
    (entry, *_) = storage.list_files(str(three))
    monkeypatch.setattr(storage, "read", Failing(storage.NotFound("x"), 1))
    index = index_shard(str(three), entry)
    assert index.damage == (Damage("00000.tar", 0, "shard_missing", "listed, but not there"),)
    assert not len(index.extents)


def test_a_gzip_tar_is_one_extent_and_reads_like_the_plain_one(tmp_path):
    samples = {f"{i:03d}": {"txt": b"%d" % i} for i in range(300)}
    data = make_tar(samples)[0]
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(data))
    (tmp_path / "1.tar").write_bytes(gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]))
    messages: list[str] = []
    corpus = open_corpus(str(tmp_path), notify=messages.append, hash_extents=True)
    assert corpus.extents.rows.tolist() == [300, 300] and not corpus.damage
    assert {s.key: s.members for s in read_extent(corpus, 0)} == samples
    assert [s.fault for s in read_extent(corpus, 1)] == [None] * 300
    assert "gunzip them: 0.tar.gz, 1.tar" in messages[0]


def test_a_truncated_gzip_keeps_the_samples_before_the_cut(tmp_path):
    samples = {key: {"bin": os.urandom(5000), "txt": b"x"} for key in some_samples(20)}
    compressed = gzip.compress(make_tar(samples)[0])
    (tmp_path / "0.tgz").write_bytes(compressed[: len(compressed) // 2])
    corpus = open_corpus(str(tmp_path))
    assert corpus.damage[0].reason == "gzip_truncated" and corpus.damage[0].offset == len(compressed) // 2
    delivered = {s.key: s.members for s in rows_of(corpus)}
    assert 5 < len(delivered) < 12 and all(samples[key] == members for key, members in delivered.items())


def test_a_gzip_with_a_wrong_checksum_delivers_nothing(tmp_path):
    compressed = bytearray(gzip.compress(make_tar(some_samples())[0]))
    compressed[-6] ^= 1
    (tmp_path / "0.tgz").write_bytes(compressed)
    save(tmp_path, "1.tar")
    corpus = open_corpus(str(tmp_path))
    assert corpus.damage[0].reason == "gzip_corrupt" and corpus.rows == 6


def test_a_gzip_bomb_is_rejected_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("xmodal.data.formats.gzip_stream.MAX_INFLATED_BYTES", 1 << 20)
    (tmp_path / "0.tgz").write_bytes(gzip.compress(make_tar({"a": {"bin": bytes(9 << 20)}})[0]))
    with pytest.raises(CorpusError, match=r"gzip_too_large.*gunzip the shard"):
        open_corpus(str(tmp_path))


@pytest.mark.parametrize("magic", [b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\x00"])
def test_other_compressions_are_recognised_by_their_first_bytes_and_rejected(tmp_path, magic):
    (tmp_path / "0.tar").write_bytes(magic + os.urandom(2000))
    with pytest.raises(CorpusError, match=r"compressed \((zstd|bzip2|xz) is not read; decompress"):
        open_corpus(str(tmp_path))


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_written_shards_respect_their_limits_and_are_numbered(tmp_path, format):
    shards = list(
        write_shards(iter(some_samples(7).items()), str(tmp_path), format=format, rows_per_shard=3, first_number=4)
    )
    assert [Path(shard.uri).stem for shard in shards] == ["00004", "00005", "00006"]
    assert [len(shard.keys) for shard in shards] == [3, 3, 1]
    assert [shard.size for shard in shards] == [Path(shard.uri).stat().st_size for shard in shards]
    assert keys_of(open_corpus(str(tmp_path))) == list(some_samples(7))
    small_shards = write_shards(
        iter(some_samples(7).items()), str(tmp_path), format=format, bytes_per_shard=1500, prefix="small-"
    )
    assert [len(shard.keys) for shard in small_shards] == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("key", ["../x", "/x", "a.b", "", "x\n", "x" * 300, "\udcff", "__meta__"])
def test_a_key_that_a_reader_would_reject_is_not_written(tmp_path, key):
    with pytest.raises(BadSample, match="bad_name"):
        list(write_shards([(key, {"txt": b"x"})], str(tmp_path), format="tar"))
    assert not list(tmp_path.iterdir())


def test_the_stored_index_is_plain_parquet_with_json(three):
    open_corpus(str(three))
    file = pq.ParquetFile(three / "_xmodal_index.parquet")
    assert file.schema_arrow.names == ["shard", "first_row", "rows", "offset", "length"]
    assert json.loads(file.metadata.metadata[b"xmodal_index"])["version"] == 1
    assert file.schema_arrow.field("offset").type == pa.int64()


def test_indexing_reads_in_windows_and_skips_the_bodies_of_large_members(tmp_path, monkeypatch):
    samples = {"a": {"bin": b"x" * 6_000_000, "txt": b"t"}, "b": {"bin": b"y" * 100, "txt": b"t"}}
    (tmp_path / "0.tar").write_bytes(make_tar(samples)[0])
    monkeypatch.setattr(shard_indexer, "StorageSource", partial(StorageSource, window=100_000))
    real, lengths = storage.read, []

    def count(uri, offset, length, **options):
        lengths.append(length)
        return real(uri, offset, length, **options)

    monkeypatch.setattr(storage, "read", count)
    (entry,) = storage.list_files(str(tmp_path))
    assert index_shard(str(tmp_path), entry).shard.rows == 2
    assert max(lengths) <= 100_000 and sum(lengths) < 500_000


def test_the_lru_cache_makes_a_value_once_for_many_threads_and_evicts_the_oldest():
    cache: LRUCache[int] = LRUCache(limit_bytes=2)
    calls: list[int] = []

    def make(key: int) -> int:
        time.sleep(0.02)
        calls.append(key)
        return key

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: cache.get(7, lambda: make(7), lambda value: 1), range(32))) == {7}
    assert calls == [7]
    for key in (1, 2, 7):
        assert cache.get(key, lambda key=key: make(key), lambda value: 1) == key
    assert calls == [7, 1, 2, 7]
    with pytest.raises(BadSample):
        cache.get(9, lambda: (_ for _ in ()).throw(BadSample("x")), lambda value: 1)
    assert cache.get(9, lambda: make(9), lambda value: 1) == 9
