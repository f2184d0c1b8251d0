"""What is in a corpus: counted right, also where it is damaged; a sample says that it is one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import inspect as job
from pipelines.corpus import inspect
from support import corrupt_corpus
from xmodal.data import synthetic
from xmodal.errors import XmodalError

ESCAPES = ("\x1b", "\u202e", "\x00")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("nasty") / "tar"
    corrupt_corpus.write_tar(folder, corrupt_corpus.samples())
    return str(folder)


def lines(found: inspect.Inspection) -> str:
    return "\n".join(job.describe(found))


def test_every_bad_row_is_counted_with_its_reason(damaged: str) -> None:
    found = inspect.run(inspect.Config(corpus=damaged))
    wanted: dict[tuple[str, str], int] = {}
    for sample in corrupt_corpus.bad().values():
        key = (sample.field, sample.reason)
        wanted[key] = wanted.get(key, 0) + 1
    assert {(fault.field, fault.reason): fault.rows for fault in found.survey.faults} == wanted
    assert found.survey.rows == found.corpus.rows
    assert len(found.survey.measures["image width, px"]) >= len(corrupt_corpus.samples()) - len(corrupt_corpus.bad())


def test_it_prints_what_a_person_needs_and_no_control_characters(damaged: str, capsys) -> None:
    job.run(inspect.Config(corpus=damaged))
    out = capsys.readouterr().out
    for words in (
        "rows",
        "fields      ",
        "image=",
        "JPEG",
        "median",
        "caption, characters",
        "same bytes",
        "duplicate_key",
    ):
        assert words in out, words
    assert not any(character in out for character in ESCAPES)
    assert max(map(len, out.splitlines())) < 400


def test_duplicates_are_found(tmp_path: Path) -> None:
    pairs = {f"k{i}": corrupt_corpus.sound(i) for i in range(6)}
    pairs["same-picture"] = corrupt_corpus.Sample(corrupt_corpus.sound(0).image, b"another caption")
    pairs["same-caption"] = corrupt_corpus.Sample(corrupt_corpus.sound(99).image, b"Picture  number 1 OF a series")
    corrupt_corpus.write_tar(tmp_path / "tar", pairs, shards=1)
    found = inspect.run(inspect.Config(corpus=str(tmp_path / "tar"))).survey
    assert (found.same_bytes.rows, found.same_bytes.keys) == (2, ("k0", "same-picture"))
    assert (found.same_caption.rows, found.same_caption.keys) == (2, ("k1", "same-caption"))


def test_a_sample_of_a_larger_corpus_says_so_and_is_spread(tmp_path: Path) -> None:
    synthetic.write_corpus(str(tmp_path), "photo", 400, 0, rows_per_shard=10, size=16)
    found = inspect.run(inspect.Config(corpus=str(tmp_path), rows=80, pictures=8))
    assert found.survey.rows == 80 and found.survey.extents >= 16
    assert "a sample: 80 rows (20.0 %)" in lines(found)
    rows = [example.row for example in found.survey.examples]
    assert len(rows) == 8 and max(rows) - min(rows) > 300
    assert "all rows" in lines(inspect.run(inspect.Config(corpus=str(tmp_path))))


def test_the_grid_shows_the_samples(damaged: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    found = inspect.run(inspect.Config(corpus=damaged, grid=str(grid), pictures=12))
    with Image.open(grid) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(found.survey.examples) == 12
    assert pixels.shape[1] > 1200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # pictures, not a white sheet


def test_a_terminal_shows_a_picture_by_half_blocks(damaged: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    job.run(inspect.Config(corpus=damaged, grid="-", pictures=3))
    out = capsys.readouterr().out
    drawn = [line for line in out.splitlines() if "▀" in line]
    assert len(drawn) == 12 and all(line.count("▀") == 72 and line.endswith("\x1b[0m") for line in drawn)


def test_a_corpus_without_captions_is_looked_into_all_the_same(tmp_path: Path) -> None:
    pairs = {f"k{i}": corrupt_corpus.Sample(corrupt_corpus.sound(i).image, None) for i in range(4)}
    corrupt_corpus.write_tar(tmp_path / "tar", pairs, shards=1)
    found = inspect.run(inspect.Config(corpus=str(tmp_path / "tar")))
    assert found.survey.formats == {"JPEG": 4}
    assert "cannot guess where the text" in lines(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 0}, "rows=0"),
        ({"pictures": 0}, "pictures=0"),
        ({"fields": ("imag=jpg",)}, "image"),
        ({"corpus": "no"}, "no"),
    ],
)
def test_a_mistake_is_one_sentence(damaged: str, change: dict, words: str) -> None:
    with pytest.raises(XmodalError, match=words):
        inspect.run(inspect.Config(**{"corpus": damaged} | change))


@pytest.mark.s3
def test_a_corpus_in_storage_and_its_grid(s3_root: str) -> None:
    from xmodal import storage

    synthetic.write_corpus(f"{s3_root}/scenes", "photo", 12, 0, size=16)
    found = inspect.run(inspect.Config(corpus=f"{s3_root}/scenes", grid=f"{s3_root}/grid.png"))
    assert found.survey.rows == 12
    assert storage.read(f"{s3_root}/grid.png", 0, 4) == b"\x89PNG"
