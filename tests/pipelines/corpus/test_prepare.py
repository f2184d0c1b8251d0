"""Preparation of a corpus: pairs are unchanged, a killed run equals an uninterrupted one, rejected rows are listed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.corpus import prepare
from support import s3
from xmodal import storage
from xmodal.data.index.corpus import open_corpus, read_extent
from xmodal.data.prepare.pair_reader import pair_key, resolve_path
from xmodal.errors import BadSample, ConfigError, CorpusError, StorageError

CAPTIONS = ["a red star", "ein grünes Haus", "赤い魚", 'two,\ncommas and "quotes"', "نجمة", "🐟 in the sea"]


def _picture(index: int, kind: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def _pairs(folder: Path, count: int = 12) -> dict[str, tuple[bytes, str]]:
    """Write images of three formats; return their paths with bytes and caption."""
    (folder / "img" / "deep").mkdir(parents=True)
    pairs = {}
    for i in range(count):
        kind, ending = [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")][i % 3]
        path = f"img/deep/p{i}.{ending}" if i % 4 == 3 else f"img/p{i}.{ending}"
        pairs[path] = _picture(i, kind), f"{CAPTIONS[i % len(CAPTIONS)]} {i}"
        (folder / path).write_bytes(pairs[path][0])
    return pairs


def _csv(folder: Path, pairs: dict[str, tuple[bytes, str]]) -> Path:
    with open(folder / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "id", "caption"), *((path, 1, text) for path, (_, text) in pairs.items())])
    return folder / "pairs.csv"


def _jsonl(folder: Path, pairs: dict[str, tuple[bytes, str]]) -> Path:
    lines = [json.dumps({"file_name": path, "text": text}) for path, (_, text) in pairs.items()]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder / "pairs.jsonl"


def _parquet(folder: Path, pairs: dict[str, tuple[bytes, str]]) -> Path:
    table = {"path": list(pairs), "title": [text for _, text in pairs.values()]}
    pq.write_table(pa.table(table), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def _folder(folder: Path, pairs: dict[str, tuple[bytes, str]]) -> Path:
    for i, (path, (_, text)) in enumerate(pairs.items()):
        stem = folder / path.rpartition(".")[0]
        if i % 3 == 0:
            Path(f"{stem}.json").write_text(json.dumps({"width": 3, "caption": text}))
        else:
            Path(f"{stem}.{['', 'caption', 'txt'][i % 3]}").write_text(text + "\n")
    return folder / "img"


def _contents(target: Path | str) -> set[tuple[bytes, str]]:
    corpus = open_corpus(str(target))
    samples = [s for extent in range(len(corpus.extents)) for s in read_extent(corpus, extent)]
    assert all(s.fault is None for s in samples)
    assert len({s.key for s in samples}) == corpus.rows == len(samples)
    pairs = set()
    for sample in samples:
        members = dict(sample.members)
        if corpus.format == "tar":
            text = members.pop("txt").decode()
            [image] = members.values()
        else:
            text, image = members["text"], members["image"]
        pairs.add((image, text))
    return pairs


def _run(source: Path | str, target: Path | str, **settings: object) -> prepare.PrepareSummary:
    settings = {"workers": 1, "rows_per_shard": 5} | settings
    return prepare.run(
        prepare.PrepareConfig(source=str(source), target=str(target), **settings), notify=lambda line: None
    )


def _bytes(target: Path) -> dict[str, bytes]:
    """Read every file but the index, which holds time stamps of the shards."""
    files = (p for p in target.rglob("*") if p.is_file() and "_index" not in p.name)
    return {str(p.relative_to(target)): p.read_bytes() for p in files}


def _listed_rows(target: Path) -> dict[int, str]:
    lines = (target / "_refused.jsonl").read_text().splitlines()
    return {item["row"]: item["reason"] for item in map(json.loads, lines)}


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
@pytest.mark.parametrize("write", [_csv, _jsonl, _parquet, _folder])
def test_every_pair_is_unchanged_in_the_corpus(
    tmp_path: Path, write: Callable[[Path, dict[str, tuple[bytes, str]]], Path], shard_format: str
) -> None:
    pairs = _pairs(tmp_path)
    summary = _run(write(tmp_path, pairs), tmp_path / "out", format=shard_format)
    assert (summary.rows, summary.shards, summary.refused) == (12, 3, {})
    assert _contents(tmp_path / "out") == {(data, text) for data, text in pairs.values()}
    assert (tmp_path / "out" / "_refused.jsonl").read_text() == ""


def test_shards_are_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    source = _csv(tmp_path, _pairs(tmp_path))
    _run(source, tmp_path / "one", workers=1)
    _run(source, tmp_path / "two", workers=2)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def _start(source: Path, target: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.prepare", str(source), str(target)]
    return subprocess.Popen([*command, "--rows-per-shard", "2", "--workers", "2"], start_new_session=True)


def _is_running(group: int) -> bool:
    """Return whether a process of this session still runs; one that has ended but was not collected does not count."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == group and state != "Z":
            return True
    return False


def test_a_preparation_killed_and_started_again_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 100)
    pairs["img/gone.jpg"] = b"", "not there"
    source, target = _csv(tmp_path, pairs), tmp_path / "killed"
    assert _start(source, tmp_path / "whole").wait() == 0
    run = _start(source, target)
    while len(list(target.glob("*.tar"))) < 8 and run.poll() is None:
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 20
    while _is_running(run.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(run.pid), "the workers outlived the run"
    reused = {
        p.name: p.stat().st_mtime_ns
        for p in target.glob("*.tar")
        if (target / "_xmodal_prepare" / f"{p.name}.json").exists()
    }
    assert 0 < len(reused) < 50, "the kill came too early or too late"
    assert not (target / "_xmodal_index.parquet").exists()
    assert _start(source, target).wait() == 0
    assert {name: (target / name).stat().st_mtime_ns for name in reused} == reused
    assert _bytes(target) == _bytes(tmp_path / "whole")
    assert open_corpus(str(target)).rows == 100


@pytest.mark.s3
@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_a_corpus_is_prepared_from_s3_to_s3(tmp_path: Path, s3_server: s3.S3Server, shard_format: str) -> None:
    pairs = _pairs(tmp_path, 7)
    source, target = (f"{s3_server.bucket_uri}/{shard_format}-{name}" for name in ("source", "target"))
    for path, (data, text) in pairs.items():
        storage.write(f"{source}/{path}", data)
        storage.write(f"{source}/{path.rpartition('.')[0]}.txt", text.encode())
    summary = _run(source, target, format=shard_format, rows_per_shard=3)
    assert (summary.rows, summary.shards) == (7, 3)
    assert _contents(target) == set(pairs.values())
    storage.delete(f"{target}/00001.{shard_format}")
    again = _run(source, target, format=shard_format, rows_per_shard=3)
    assert again.reused_shards == 2
    assert _contents(target) == set(pairs.values())


def test_a_shard_that_was_damaged_after_its_receipt_is_written_again(tmp_path: Path) -> None:
    source = _csv(tmp_path, _pairs(tmp_path))
    _run(source, tmp_path / "out")
    before = _bytes(tmp_path / "out")
    (tmp_path / "out" / "00001.tar").write_bytes(b"cut")
    (tmp_path / "out" / "00002.tar").unlink()
    summary = _run(source, tmp_path / "out")
    assert summary.reused_shards == 1
    assert _bytes(tmp_path / "out") == before


def test_rows_that_cannot_be_used_are_listed_with_reasons(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 3)
    (tmp_path / "img" / "text.jpg").write_bytes(b"no image at all")
    (tmp_path / "img" / "empty.jpg").write_bytes(b"")
    (tmp_path / "img" / "wide.png").write_bytes(_picture(0, "PNG", (800, 1)))
    (tmp_path.parent / "outside.jpg").write_bytes(_picture(0))
    source = _csv(tmp_path, pairs)
    with open(source, "ab") as file:
        file.write(b"img/none.jpg,1,missing\nimg/text.jpg,1,text\nimg/empty.jpg,1,empty\nimg/wide.png,1,wide\n")
        file.write(b"../outside.jpg,1,out\n/etc/hostname,1,out\nhttp://example.org/a.jpg,1,url\nimg/p0.jpg,1, \n")
        file.write(b"img/p0.jpg,1,\xff\xfe\nimg/p0.jpg,1,a red star 0\nimg/p0.jpg,1,again\nimg/p0.jpg,1\n,1,no path\n")
        file.write(b"img,1,a folder\nimg/p0.jpg,1," + b"x" * 1_100_000 + b"\n")
    summary = _run(source, tmp_path / "out")
    expected = [
        "missing_file", "not_an_image", "not_an_image", "bad_aspect", "outside_base", "outside_base", "outside_base",
        "no_caption", "bad_utf8", "duplicate_key", None, "bad_row", "missing_file", "unreadable", "too_large",
    ]  # fmt: skip
    refused = {row: reason for row, reason in enumerate(expected, 4) if reason}
    listed = _listed_rows(tmp_path / "out")
    assert listed | {17: "unreadable"} == refused
    assert listed[17] in ("unreadable", "missing_file")
    assert summary.rows == 4
    assert sum(summary.refused.values()) == len(refused)
    planned = 3 + len(expected)
    assert summary.rows + len(refused) == planned


def test_json_lines_that_are_broken_are_listed(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 2)
    source = _jsonl(tmp_path, pairs)
    with open(source, "ab") as file:
        file.write(b'\n{"file_name": "img/p0.jpg", "text": 7}\nnot json\n[1]\n\n{"file_name": 3, "text": "a"}\n')
        file.write(b'{"file_name": "img/p0.jpg", "text": "\xff"}\n{"file_name": "img/p0.jpg", "text": "\\ud800"}\n')
    _run(source, tmp_path / "out")
    reasons = ["no_caption", "bad_row", "bad_row", "bad_row", "bad_utf8", "bad_utf8"]
    assert _listed_rows(tmp_path / "out") == dict(enumerate(reasons, 3))


def test_images_without_sidecar_and_broken_sidecars_are_listed(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.jpg").write_bytes(_picture(1))
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.json").write_text("{broken")
    (tmp_path / "c.json").write_text('{"other": "x"}')
    _run(tmp_path, tmp_path / "out")
    assert _listed_rows(tmp_path / "out") == {2: "bad_json", 3: "no_caption", 4: "no_caption"}


def test_resizing_shrinks_large_images_and_leaves_small_ones(tmp_path: Path) -> None:
    small, large = _picture(1), _picture(2, "PNG", (90, 60))
    for name, data in (("small", small), ("large", large)):
        (tmp_path / f"{name}.jpg").write_bytes(data)
        (tmp_path / f"{name}.txt").write_text(name)
    _run(tmp_path, tmp_path / "out", resize_short_side=20)
    images = {text: data for data, text in _contents(tmp_path / "out")}
    assert images["small"] == small
    assert Image.open(io.BytesIO(images["large"])).size == (30, 20)


def test_shards_by_size_hold_about_that_many_bytes(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 40)
    total = sum(len(data) for data, _ in pairs.values())
    summary = _run(_csv(tmp_path, pairs), tmp_path / "out", rows_per_shard=None, shard_mb=total / 4 / 1e6)
    assert 4 <= summary.shards <= 5
    assert _contents(tmp_path / "out") == set(pairs.values())


def test_a_target_of_another_run_is_rejected_without_overwrite(tmp_path: Path) -> None:
    source, target = _csv(tmp_path, _pairs(tmp_path)), tmp_path / "out"
    _run(source, target)
    with pytest.raises(CorpusError, match=r"rows_per_shard was 5, now 4.*--overwrite"):
        _run(source, target, rows_per_shard=4)
    with open(source, "a") as file:
        file.write("img/p1.png,1,one more\n")
    with pytest.raises(CorpusError, match="lists other rows than before"):
        _run(source, target)
    assert _run(source, target, overwrite=True).rows == 13


def test_overwrite_deletes_only_its_own_files(tmp_path: Path) -> None:
    source, target = _csv(tmp_path, _pairs(tmp_path)), tmp_path / "out"
    _run(source, target)
    (target / "thesis.tex").write_text("years of work")
    before = _bytes(target)
    with pytest.raises(CorpusError, match=r"thesis\.tex.*deletes nothing"):
        _run(source, target, rows_per_shard=4, overwrite=True)
    with pytest.raises(CorpusError, match="no unfinished run"):
        _run(source, tmp_path / "img")
    assert _bytes(target) == before


def _failure(source: Path, target: Path, *options: str) -> str:
    command = [sys.executable, "-m", "jobs.prepare", str(source), str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_the_command_fails_with_one_line_and_code_2(tmp_path: Path) -> None:
    source = _csv(tmp_path, _pairs(tmp_path, 2))
    assert "did you mean 'caption'" in _failure(source, tmp_path / "out", "--caption-column", "captoin")
    assert "does not exist" in _failure(tmp_path / "pears.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.csv", "", CorpusError, r"no column looks like the image.*\(none\)"),
        ("a.csv", "image,caption\n", CorpusError, "lists no images"),
        ("a.csv", "image,label\nx.jpg,3\n", CorpusError, "no column looks like the caption.*image, label"),
        ("a.csv", "image,caption,text\nx,y,z\n", CorpusError, "caption and text could each be the caption"),
        ("a.csv", 'image,caption\n"x,y\n', CorpusError, "every row was refused|balanced quotes"),
        ("a.jsonl", "hello\n", CorpusError, "is not JSON lines"),
        ("a.parquet", "hello", CorpusError, "not a Parquet file"),
        ("a.xlsx", "hello", CorpusError, r"neither a folder nor a table.*valid: \.csv"),
        ("a.csv", "image,caption\nnone.jpg,x\n", CorpusError, r"every row was refused \(1 missing_file\)"),
    ],
)  # fmt: skip
def test_bad_tables_get_one_clear_error(
    tmp_path: Path, name: str, text: str, error: type[Exception], message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        _run(tmp_path / name, tmp_path / "out")


def test_bad_settings_and_locations_get_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("x")
    with pytest.raises((CorpusError, StorageError), match=r"no images|nothing|no image files"):
        _run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(CorpusError, match="holds no image files"):
        _run(tmp_path / "notes", tmp_path / "out")
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        _run(tmp_path, tmp_path / "out", format="parket")
    with pytest.raises(ConfigError, match="give one of them"):
        _run(tmp_path, tmp_path / "out", shard_mb=3)
    with pytest.raises(ConfigError, match="--workers must be positive"):
        _run(tmp_path, tmp_path / "out", workers=0)
    image_table = pa.table({"image": pa.array([b"x"]), "caption": ["y"]})
    pq.write_table(image_table, tmp_path / "bytes.parquet")
    with pytest.raises(CorpusError, match="holds the images themselves"):
        _run(tmp_path / "bytes.parquet", tmp_path / "out")


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_paths_outside_the_base_folder_are_rejected(path: bytes) -> None:
    for image in (path, b"../" + path, b"/" + path, b"a/../../" + path):
        try:
            inside = resolve_path(image, "/data/base")
        except BadSample:
            continue
        assert os.path.normpath(os.path.join("/data/base", inside)).startswith("/data/base/")


@given(st.text(max_size=60).filter(lambda s: "\0" not in s), st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_keys_are_safe_and_unique(path: str, caption: bytes) -> None:
    path = path.encode(errors="replace").decode()
    key = pair_key(path, caption)
    assert key.isascii()
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert key == pair_key(path, caption) != pair_key(path + "x", caption)
    assert key != pair_key(path, caption + b"x")


def _captions_in_order(target: Path) -> list[str]:
    corpus = open_corpus(str(target))
    samples = [s for extent in range(len(corpus.extents)) for s in read_extent(corpus, extent)]
    return [sample.members["txt"].decode() for sample in samples]


def test_rows_are_shuffled_by_seed_unless_their_order_is_to_stay(tmp_path: Path) -> None:
    pairs = _pairs(tmp_path, 40)
    source, captions = _csv(tmp_path, pairs), [text for _, text in pairs.values()]
    for name, asked in {"a": {}, "b": {"seed": 1}, "again": {}, "kept": {"shuffle": False}}.items():
        _run(source, tmp_path / name, **asked)
    orders = {name: _captions_in_order(tmp_path / name) for name in ("a", "b", "again", "kept")}
    assert orders["kept"] == captions
    assert sorted(orders["a"]) == sorted(orders["b"]) == sorted(captions)
    assert orders["a"] == orders["again"] and len({tuple(order) for order in orders.values()}) == 3
    assert sum(a == b for a, b in zip(orders["a"], captions, strict=True)) < 10
    with pytest.raises(CorpusError, match="order was shuffled by seed 0, now shuffled by seed 1"):
        _run(source, tmp_path / "a", seed=1)


def test_a_target_begun_before_rows_were_shuffled_is_finished_in_its_order(tmp_path: Path) -> None:
    source, target = _csv(tmp_path, _pairs(tmp_path)), tmp_path / "out"
    _run(source, target, shuffle=False)
    whole = _bytes(target)
    record = json.loads((target / "_xmodal_prepare.json").read_text())
    del record["settings"]["order"]
    (target / "_xmodal_prepare.json").write_text(json.dumps(record))
    (target / "00001.tar").unlink()
    with pytest.raises(CorpusError, match="order was that of the source, now shuffled by seed 0"):
        _run(source, target)
    _run(source, target, shuffle=False)
    assert _bytes(target)["00001.tar"] == whole["00001.tar"]
