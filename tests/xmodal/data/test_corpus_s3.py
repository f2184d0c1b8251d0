"""A corpus on S3 behaves as a local one: URIs, index, changed shards, and storage faults."""

import pytest

from support.s3 import S3Server
from support.tars import some_samples
from xmodal import storage
from xmodal.data.formats.shard_writer import write_shards
from xmodal.data.index.corpus import Corpus, open_corpus, read_extent
from xmodal.errors import CorpusError, StorageError

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("short_waits")]


def put(root: str, number: int, letter: str, format: str = "tar") -> None:
    samples = ((f"{letter}{key}", members) for key, members in some_samples().items())
    list(write_shards(samples, root, format=format, first_number=number))  # type: ignore[arg-type]


def outcome(corpus: Corpus) -> list[str]:
    """Return the key or the fault of every row."""
    rows = [row for extent in range(len(corpus.extents)) for row in read_extent(corpus, extent)]
    return [row.fault.reason if row.fault else row.key for row in rows]


def test_uris_index_and_changed_shards_on_s3(s3_root: str) -> None:
    for number, letter in enumerate("abc"):
        put(s3_root, number, letter)
    keys = [letter + key for letter in "abc" for key in some_samples()]
    assert outcome(open_corpus(s3_root)) == outcome(open_corpus(s3_root + "/")) == keys
    assert outcome(open_corpus(f"{s3_root}/{{00000..00001}}.tar")) == keys[:12]
    assert outcome(open_corpus(f"{s3_root}/00002.tar")) == keys[12:]
    put(s3_root, 1, "x")
    work: list = []
    again = open_corpus(s3_root, map_shards=lambda f, entries: map(f, work.extend(entries) or entries))
    assert [entry.uri for entry in work] == [f"{s3_root}/00001.tar"] and outcome(again)[6] == "x0000"
    with pytest.raises(CorpusError, match="nothing is stored there"):
        open_corpus(f"{s3_root}/elsewhere")


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_replaced_and_deleted_objects_become_faults(s3_root: str, format: str) -> None:
    for number, letter in enumerate("abc"):
        put(s3_root, number, letter, format)
    corpus = open_corpus(s3_root, index=f"{s3_root}-index")
    put(s3_root, 0, "z", format)
    storage.delete(f"{s3_root}/00001.{format}")
    keys = [f"c{key}" for key in some_samples()]
    assert outcome(corpus) == ["shard_changed"] * 6 + ["shard_missing"] * 6 + keys


def test_an_outage_is_an_error_and_transient_faults_are_invisible(
    s3_server: S3Server, s3_root: str, monkeypatch
) -> None:
    put(s3_root, 0, "a")
    corpus = open_corpus(s3_root)
    plan: list[dict[str, object]] = [
        {"kind": "slow_down", "method": "GET", "first": 2},
        {"kind": "cut", "method": "GET", "bytes": 700, "skip": 2, "first": 2},
    ]
    with s3_server.faults(plan) as faults:
        assert outcome(corpus) == [f"a{key}" for key in some_samples()]
        assert faults.fired == [2, 2]
    monkeypatch.setattr("xmodal.storage.retry.MAX_ATTEMPTS", 2)
    with s3_server.down(), pytest.raises(StorageError):
        outcome(corpus)
