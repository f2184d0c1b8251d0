"""Damaged and odd samples on a real run: delivered, or quarantined with the reason; none stops it, none vanishes."""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from jobs import console
from jobs import pretrain as job
from pipelines.stages import pretrain
from support import corrupt_corpus
from xmodal import checkpoint
from xmodal.errors import CorpusError, TooManyBadRows
from xmodal.run import read_metrics, read_quarantine

pytestmark = [pytest.mark.ray]

TINY = ("image_size=32", "patch_size=8", "width=32", "depth=1", "heads=2",
        "text_width=32", "text_depth=1", "text_heads=2", "context=16", "dim=32")  # fmt: skip
READER_LIMIT = 800  # MiB; the bomb would take 1,200 decoded, a megabyte caption in full as much again


def arguments(runs, *corpora, steps, batch=24, workers=1, flags=()):
    return [
        "vit-tiny", "--name", "a", "--runs", str(runs), "--corpus", *map(str, corpora), "--arguments", *TINY,
        "--vocab-size", "600", "--batch-size", str(batch), "--steps", str(steps), "--rows-per-task", "64",
        "--log-every", "5", "--workers", str(workers), "--address", "local", *flags,
    ]  # fmt: skip


class Memory:
    """The largest resident set, in MiB, that any reading process of this test's Ray has ever had."""

    def __enter__(self):
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.wait(1.0):
            self.peak = max([self.peak, *_reader_peaks()])


def _reader_peaks():
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes().decode(errors="replace")
            reads = title.startswith("ray::") and "Train" not in title
            if reads and _is_descendant(int(process.name)):
                fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
                yield int(fields["VmHWM"].split()[0]) // 1024
        except (OSError, KeyError):  # it ended meanwhile
            continue


def _is_descendant(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


def expected_faults(format):
    """{key: (field, reason)} of a corpus of this format."""
    faults = {key: (sample.field, sample.reason) for key, sample in corrupt_corpus.bad().items()}
    return faults | ({"no-text": ("text", "no_caption")} if format == "parquet" else {})  # the column is there, as null


def quarantine(run_uri):
    return read_quarantine(run_uri).to_pylist()


def ledger(run_uri):
    last = read_metrics(run_uri)[-1]
    return {name: int(last[f"rows/{name}"]) for name in ("planned", "delivered", "quarantined", "padding")}


def row_of(key):
    return list(corrupt_corpus.samples()).index(key)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same pairs as tar and as Parquet."""
    folder = tmp_path_factory.mktemp("nasty")
    corrupt_corpus.write_tar(folder / "tar", corrupt_corpus.samples())
    corrupt_corpus.write_parquet(folder / "parquet", corrupt_corpus.samples())
    return folder / "tar", folder / "parquet"


def test_every_bad_row_of_both_formats_is_quarantined_once_an_epoch_and_nothing_else(both, ray_here, tmp_path):
    rows, epochs = len(corrupt_corpus.samples()), 2
    per_epoch = -(-rows // 16)  # sixteen rows of each corpus a step
    news = []
    config = job.parse(
        arguments(tmp_path, *both, steps=epochs * per_epoch, batch=32, workers=2, flags=["--max-bad-fraction", "0.5"])
    )
    with Memory() as memory:
        result = pretrain.run(config, news.append)
    records = quarantine(result.run.uri)
    found = Counter((r["corpus"], r["key"], r["field"], r["reason"], r["epoch"]) for r in records)
    assert found == {
        (str(corpus), key, *fault, epoch): 1
        for corpus in both
        for key, fault in expected_faults(corpus.name).items()
        for epoch in range(epochs)
    }
    for record in records:
        row = row_of(record["key"])
        assert record["row"] == row
        suffix = "tar" if record["corpus"].endswith("tar") else "parquet"
        assert record["shard"] == f"{row // -(-rows // corrupt_corpus.SHARDS):02}.{suffix}"
    bad = len(both) * epochs * len(corrupt_corpus.bad())
    planned = len(both) * epochs * rows
    padding = 32 * epochs * per_epoch - planned
    assert ledger(result.run.uri) == {
        "planned": planned, "delivered": planned - bad, "quarantined": bad, "padding": padding
    }  # fmt: skip
    assert 100 < memory.peak < READER_LIMIT, f"{memory.peak} MiB"
    notes = " ".join(message.get("text", "") for message in news)
    assert "duplicate_key 3" in notes  # the repeated keys of the tars are told at indexing and belong to no row


def test_too_many_bad_rows_stop_the_run_with_exit_code_3_and_it_goes_on_from_there(both, ray_here, tmp_path, capsys):
    command = arguments(tmp_path, both[0], steps=12)
    with pytest.raises(SystemExit) as stopped:
        console.main(lambda: job.run(command))
    assert stopped.value.code == 3
    bad, rows = len(corrupt_corpus.bad()), len(corrupt_corpus.samples())
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for part in (f"{bad} of {rows} rows", "max_bad_fraction=0.01", "no_caption (text)", "quarantine.parquet",
                 "raise --max-bad-fraction and --resume"):  # fmt: skip
        assert part in error
    run_uri = str(tmp_path / "a")
    assert {r["key"]: (r["field"], r["reason"]) for r in quarantine(run_uri)} == expected_faults("tar")
    epoch = -(-rows // 24)
    assert checkpoint.resolve(run_uri).step == epoch  # judged, and saved, when the whole corpus had been seen once
    news = []
    result = pretrain.run(job.parse([*command, "--resume", "--max-bad-fraction", "0.5"]), news.append)
    assert [message["step"] for message in news if message["kind"] == "start"] == [epoch]
    assert result.step == 12
    first = [r["key"] for r in quarantine(run_uri) if r["epoch"] == 0]
    assert sorted(first) == sorted(corrupt_corpus.bad())  # none twice, though the run has stopped and gone on


def test_shards_that_change_behind_the_index_cost_their_rows_and_no_others(ray_here, tmp_path):
    """Cut, replaced, deleted and emptied between the index and the first read: every row is accounted for."""
    corpus = tmp_path / "shards"
    pairs = {f"s{seed:04}": corrupt_corpus.sound(seed) for seed in range(150)}
    corrupt_corpus.write_tar(corpus, pairs, shards=5)
    shards = sorted(corpus.glob("*.tar"))

    def damage(message):
        if message["kind"] == "opening":
            os.truncate(shards[0], shards[0].stat().st_size // 2)
            shards[1].write_bytes(shards[4].read_bytes())
            shards[2].unlink()
            os.truncate(shards[3], 0)

    flags = ["--max-bad-fraction", "1"]
    result = pretrain.run(job.parse(arguments(tmp_path, corpus, steps=5, batch=30, flags=flags)), damage)
    records = quarantine(result.run.uri)
    assert sorted(r["row"] for r in records) == list(range(120))
    reasons = {shard: {r["reason"] for r in records if r["shard"] == shard} for shard in ("00.tar", "01.tar", "03.tar")}
    assert all(found <= {"shard_changed", "extent_short"} and found for found in reasons.values()), reasons
    assert {r["reason"] for r in records if r["shard"] == "02.tar"} == {"shard_missing"}
    assert ledger(result.run.uri) == {"planned": 150, "delivered": 30, "quarantined": 120, "padding": 0}


@pytest.mark.parametrize("content", [b"", bytes(20_480), b"<html>503 Slow Down</html>"], ids=["empty", "zeros", "html"])
def test_a_corpus_without_one_sound_sample_is_refused_before_any_worker_starts(content, ray_here, tmp_path):
    corpus = tmp_path / "shards"
    corpus.mkdir()
    for name in ("0.tar", "1.tar"):
        (corpus / name).write_bytes(content)
    with pytest.raises(CorpusError, match=r"none of the 2 shards of .* holds a usable sample: 0\.tar at byte 0"):
        pretrain.run(job.parse(arguments(tmp_path, corpus, steps=5)))
    assert not (tmp_path / "a").exists()


def test_sound_shards_of_nothing_but_bad_images_stop_the_run(ray_here, tmp_path):
    corpus = tmp_path / "shards"
    corrupt_corpus.write_tar(
        corpus, {f"s{i}": corrupt_corpus.Sample(b"<html>", f"caption {i}".encode()) for i in range(40)}, shards=2
    )
    with pytest.raises(TooManyBadRows, match=r"40 of 40 rows \(100\.0%\).*40 not_an_image \(image\)"):
        pretrain.run(job.parse(arguments(tmp_path, corpus, steps=40, batch=8)))
