"""An indexing that is killed goes on where it was: what is done is stored while the rest is indexed."""

import math

import pytest

from support.tars import make_tar, some_samples
from xmodal.data.index import corpus as corpora
from xmodal.data.index.corpus import open_corpus


class Killed(BaseException):
    """What ends a process, and no handler expects."""


@pytest.fixture
def five(tmp_path):
    folder = tmp_path / "five"
    folder.mkdir()
    for number in range(5):
        samples = {f"{number}-{key}": members for key, members in some_samples(3).items()}
        (folder / f"{number}.tar").write_bytes(make_tar(samples)[0])
    return folder


def killed_after(shards, log):
    def map_shards(function, entries):
        for number, entry in enumerate(entries):
            if number == shards:
                raise Killed
            log.append(entry.uri.rpartition("/")[2])
            yield function(entry)

    return map_shards


def test_no_shard_is_indexed_twice(five, monkeypatch):
    whole = open_corpus(str(five), index=str(five.parent / "elsewhere"))
    monkeypatch.setattr(corpora, "STORE_EVERY_S", 0.0)
    monkeypatch.setattr(corpora, "STORING_SHARE", math.inf)
    log: list[str] = []
    for shards in (2, 1):
        with pytest.raises(Killed):
            open_corpus(str(five), map_shards=killed_after(shards, log))
    resumed = open_corpus(str(five), map_shards=killed_after(99, log))
    assert log == [f"{number}.tar" for number in range(5)]
    assert resumed.fingerprint == whole.fingerprint and resumed.rows == 15


def test_a_changed_shard_is_not_taken_from_the_stored_part(five, monkeypatch):
    open_corpus(str(five))
    monkeypatch.setattr(corpora, "STORE_EVERY_S", 0.0)
    for number in (1, 3):
        samples = {f"new-{number}-{key}": members for key, members in some_samples(4).items()}
        (five / f"{number}.tar").write_bytes(make_tar(samples)[0])
    log: list[str] = []
    with pytest.raises(Killed):
        open_corpus(str(five), map_shards=killed_after(1, log))
    resumed = open_corpus(str(five), map_shards=killed_after(99, log))
    assert log == ["1.tar", "3.tar"]
    assert resumed.rows == 17 and resumed.fingerprint == open_corpus(str(five), rebuild=True).fingerprint


def test_storing_does_not_take_more_than_a_little_of_the_time(five, monkeypatch):
    monkeypatch.setattr(corpora, "STORE_EVERY_S", 0.0)
    clock = iter(float(number) for number in range(1000))  # each look at the clock a second later than the last one
    monkeypatch.setattr(corpora.time, "monotonic", lambda: next(clock))
    stored = []
    store = corpora._store
    monkeypatch.setattr(corpora, "_store", lambda *given: stored.append(1) or store(*given))
    open_corpus(str(five))
    assert len(stored) == 2  # after the first shard, and at the end
