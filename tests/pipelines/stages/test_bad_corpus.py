"""On a real run every damaged or odd sample is delivered, or quarantined with the reason; none stops the run."""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from jobs import console
from jobs import pretrain as job
from pipelines.runtime.events import RunStart, WorkerGroupStart
from pipelines.stages import pretrain
from support import corrupt_corpus
from support.model_flags import model_flags
from xmodal import checkpoint
from xmodal.errors import CorpusError, TooManyBadRows
from xmodal.run import read_metrics, read_quarantine

pytestmark = [pytest.mark.ray]

READER_LIMIT = 800  # MiB; the bomb would take 1,200 decoded, a megabyte caption in full as much again


def arguments(runs, *corpora, steps, batch=24, workers=1, flags=()):
    return [
        "vit-tiny", "--name", "a", "--runs", str(runs), "--corpus", *map(str, corpora), *model_flags(),
        "--vocab-size", "600", "--batch-size", str(batch), "--steps", str(steps), "--rows-per-task", "64",
        "--log-every", "5", "--workers", str(workers), "--address", "local", *flags,
    ]  # fmt: skip


class Memory:
    """Measures the largest resident set, in MiB, of the reading processes of this test's Ray."""

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
    faults = {key: (sample.field, sample.reason) for key, sample in corrupt_corpus.bad_samples().items()}
    return faults | ({"no-text": ("text", "no_caption")} if format == "parquet" else {})  # the column is there, as null


def quarantine(run_uri):
    return read_quarantine(run_uri).to_pylist()


def ledger(run_uri):
    last = read_metrics(run_uri)[-1]
    return {name: int(last[f"rows/{name}"]) for name in ("planned", "delivered", "quarantined", "padding")}


def row_of(key):
    return list(corrupt_corpus.all_samples()).index(key)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Write the same pairs as tar and as Parquet."""
    folder = tmp_path_factory.mktemp("nasty")
    corrupt_corpus.write_tar(folder / "tar", corrupt_corpus.all_samples())
    corrupt_corpus.write_parquet(folder / "parquet", corrupt_corpus.all_samples())
    return folder / "tar", folder / "parquet"


def test_exactly_the_bad_rows_of_both_formats_are_quarantined_once_an_epoch(both, ray_here, tmp_path):
    rows, epochs = len(corrupt_corpus.all_samples()), 2
    per_epoch = -(-rows // 16)  # sixteen rows of each corpus a step
    events = []
    config = job.parse(
        arguments(tmp_path, *both, steps=epochs * per_epoch, batch=32, workers=2, flags=["--max-bad-fraction", "0.5"])
    )
    with Memory() as memory:
        result = pretrain.run(config, events.append)
    records = quarantine(result.run.uri)
    faults = Counter((r["corpus"], r["key"], r["field"], r["reason"], r["epoch"]) for r in records)
    assert faults == {
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
    bad = len(both) * epochs * len(corrupt_corpus.bad_samples())
    planned = len(both) * epochs * rows
    padding = 32 * epochs * per_epoch - planned
    assert ledger(result.run.uri) == {
        "planned": planned, "delivered": planned - bad, "quarantined": bad, "padding": padding
    }  # fmt: skip
    assert 100 < memory.peak < READER_LIMIT, f"{memory.peak} MiB"
    notes = " ".join(getattr(event, "text", "") for event in events)
    assert "duplicate_key 3" in notes  # the repeated keys of the tars are told at indexing and belong to no row


def test_too_many_bad_rows_stop_the_run_with_exit_code_3_and_it_resumes_from_there(both, ray_here, tmp_path, capsys):
    command = arguments(tmp_path, both[0], steps=12)
    with pytest.raises(SystemExit) as stopped:
        console.main(lambda: job.run(command))
    assert stopped.value.code == 3
    bad, rows = len(corrupt_corpus.bad_samples()), len(corrupt_corpus.all_samples())
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    for part in (f"{bad} of {rows} rows", "max_bad_fraction=0.01", "no_caption (text)", "quarantine.parquet",
                 "raise --max-bad-fraction and --resume"):  # fmt: skip
        assert part in error
    run_uri = str(tmp_path / "a")
    assert {r["key"]: (r["field"], r["reason"]) for r in quarantine(run_uri)} == expected_faults("tar")
    epoch = -(-rows // 24)
    assert checkpoint.resolve(run_uri).step == epoch  # judged, and saved, when the whole corpus had been seen once
    events = []
    result = pretrain.run(job.parse([*command, "--resume", "--max-bad-fraction", "0.5"]), events.append)
    assert [event.step for event in events if isinstance(event, WorkerGroupStart)] == [epoch]
    assert result.step == 12
    first = [r["key"] for r in quarantine(run_uri) if r["epoch"] == 0]
    assert sorted(first) == sorted(corrupt_corpus.bad_samples())  # none twice, though the run has stopped and gone on


def test_of_shards_that_change_after_indexing_only_the_changed_rows_are_lost(ray_here, tmp_path):
    """Shards are cut, replaced, deleted and emptied between indexing and the first read; every row is accounted for."""
    corpus = tmp_path / "shards"
    pairs = {f"s{seed:04}": corrupt_corpus.valid_sample(seed) for seed in range(150)}
    corrupt_corpus.write_tar(corpus, pairs, shards=5)
    shards = sorted(corpus.glob("*.tar"))

    def damage(event):
        if isinstance(event, RunStart):
            os.truncate(shards[0], shards[0].stat().st_size // 2)
            shards[1].write_bytes(shards[4].read_bytes())
            shards[2].unlink()
            os.truncate(shards[3], 0)

    flags = ["--max-bad-fraction", "1"]
    result = pretrain.run(job.parse(arguments(tmp_path, corpus, steps=5, batch=30, flags=flags)), damage)
    records = quarantine(result.run.uri)
    assert sorted(r["row"] for r in records) == list(range(120))
    reasons = {shard: {r["reason"] for r in records if r["shard"] == shard} for shard in ("00.tar", "01.tar", "03.tar")}
    assert all(kinds and kinds <= {"shard_changed", "extent_short"} for kinds in reasons.values()), reasons
    assert {r["reason"] for r in records if r["shard"] == "02.tar"} == {"shard_missing"}
    assert ledger(result.run.uri) == {"planned": 150, "delivered": 30, "quarantined": 120, "padding": 0}


@pytest.mark.parametrize("content", [b"", bytes(20_480), b"<html>503 Slow Down</html>"], ids=["empty", "zeros", "html"])
def test_a_corpus_without_a_valid_sample_is_rejected_before_a_worker_starts(content, ray_here, tmp_path):
    corpus = tmp_path / "shards"
    corpus.mkdir()
    for name in ("0.tar", "1.tar"):
        (corpus / name).write_bytes(content)
    with pytest.raises(CorpusError, match=r"none of the 2 shards of .* holds a usable sample: 0\.tar at byte 0"):
        pretrain.run(job.parse(arguments(tmp_path, corpus, steps=5)))
    assert not (tmp_path / "a").exists()


def test_intact_shards_of_bad_images_alone_stop_the_run(ray_here, tmp_path):
    corpus = tmp_path / "shards"
    corrupt_corpus.write_tar(
        corpus, {f"s{i}": corrupt_corpus.Sample(b"<html>", f"caption {i}".encode()) for i in range(40)}, shards=2
    )
    with pytest.raises(TooManyBadRows, match=r"40 of 40 rows \(100\.0%\).*40 not_an_image \(image\)"):
        pretrain.run(job.parse(arguments(tmp_path, corpus, steps=40, batch=8)))
