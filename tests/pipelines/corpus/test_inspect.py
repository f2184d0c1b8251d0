"""Inspection of a corpus: correct counts, also of damaged corpora, and samples that are marked as such."""

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
    corrupt_corpus.write_tar(folder, corrupt_corpus.all_samples())
    return str(folder)


def lines(inspection: inspect.Inspection) -> str:
    return "\n".join(job.describe(inspection))


def test_every_bad_row_is_counted_with_its_reason(damaged: str) -> None:
    inspection = inspect.run(inspect.InspectConfig(corpus=damaged))
    wanted: dict[tuple[str, str], int] = {}
    for sample in corrupt_corpus.bad_samples().values():
        key = (sample.field, sample.reason)
        wanted[key] = wanted.get(key, 0) + 1
    assert {(fault.field, fault.reason): fault.rows for fault in inspection.survey.faults} == wanted
    assert inspection.survey.rows == inspection.corpus.rows
    assert len(inspection.survey.measures["image width, px"]) >= len(corrupt_corpus.all_samples()) - len(
        corrupt_corpus.bad_samples()
    )


def test_the_output_has_no_control_characters(damaged: str, capsys) -> None:
    job.run(inspect.InspectConfig(corpus=damaged))
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
    pairs = {f"k{i}": corrupt_corpus.valid_sample(i) for i in range(6)}
    pairs["same-picture"] = corrupt_corpus.Sample(corrupt_corpus.valid_sample(0).image, b"another caption")
    pairs["same-caption"] = corrupt_corpus.Sample(
        corrupt_corpus.valid_sample(99).image, b"Picture  number 1 OF a series"
    )
    corrupt_corpus.write_tar(tmp_path / "tar", pairs, shards=1)
    inspection = inspect.run(inspect.InspectConfig(corpus=str(tmp_path / "tar"))).survey
    assert (inspection.same_bytes.rows, inspection.same_bytes.keys) == (2, ("k0", "same-picture"))
    assert (inspection.same_caption.rows, inspection.same_caption.keys) == (2, ("k1", "same-caption"))


def test_a_sample_of_a_larger_corpus_is_spread_over_it_and_says_so(tmp_path: Path) -> None:
    synthetic.write_corpus(str(tmp_path), "photo", 400, 0, rows_per_shard=10, size=16)
    inspection = inspect.run(inspect.InspectConfig(corpus=str(tmp_path), rows=80, pictures=8))
    assert inspection.survey.rows == 80 and inspection.survey.extents >= 16
    assert "a sample: 80 rows (20.0 %)" in lines(inspection)
    rows = [example.row for example in inspection.survey.examples]
    assert len(rows) == 8 and max(rows) - min(rows) > 300
    assert "all rows" in lines(inspect.run(inspect.InspectConfig(corpus=str(tmp_path))))


def test_the_grid_shows_the_samples(damaged: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    inspection = inspect.run(inspect.InspectConfig(corpus=damaged, grid=str(grid), pictures=12))
    with Image.open(grid) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(inspection.survey.examples) == 12
    assert pixels.shape[1] > 1200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # pictures, not a white sheet


def test_a_terminal_shows_an_image_by_half_blocks(damaged: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    job.run(inspect.InspectConfig(corpus=damaged, grid="-", pictures=3))
    out = capsys.readouterr().out
    drawn = [line for line in out.splitlines() if "▀" in line]
    assert len(drawn) == 12 and all(line.count("▀") == 72 and line.endswith("\x1b[0m") for line in drawn)


def test_a_corpus_without_captions_is_inspected(tmp_path: Path) -> None:
    pairs = {f"k{i}": corrupt_corpus.Sample(corrupt_corpus.valid_sample(i).image, None) for i in range(4)}
    corrupt_corpus.write_tar(tmp_path / "tar", pairs, shards=1)
    inspection = inspect.run(inspect.InspectConfig(corpus=str(tmp_path / "tar")))
    assert inspection.survey.formats == {"JPEG": 4}
    assert "cannot guess where the text" in lines(inspection)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": 0}, "rows=0"),
        ({"pictures": 0}, "pictures=0"),
        ({"fields": ("imag=jpg",)}, "image"),
        ({"corpus": "no"}, "no"),
    ],
)
def test_a_mistake_is_a_one_line_error(damaged: str, change: dict, words: str) -> None:
    with pytest.raises(XmodalError, match=words):
        inspect.run(inspect.InspectConfig(**{"corpus": damaged} | change))


@pytest.mark.s3
def test_a_corpus_in_storage_and_its_grid(s3_root: str) -> None:
    from xmodal import storage

    synthetic.write_corpus(f"{s3_root}/scenes", "photo", 12, 0, size=16)
    inspection = inspect.run(inspect.InspectConfig(corpus=f"{s3_root}/scenes", grid=f"{s3_root}/grid.png"))
    assert inspection.survey.rows == 12
    assert storage.read(f"{s3_root}/grid.png", 0, 4) == b"\x89PNG"


def _write_captions(folder: Path, captions: list[str], image_of: list[int]) -> str:
    samples = {
        f"k{i:04}": corrupt_corpus.Sample(corrupt_corpus.valid_sample(image).image, caption.encode())
        for i, (caption, image) in enumerate(zip(captions, image_of, strict=True))
    }
    corrupt_corpus.write_tar(folder, samples, shards=1)
    return lines(inspect.run(inspect.InspectConfig(corpus=str(folder))))


def test_a_corpus_that_is_sorted_is_said_to_be_with_what_it_means(tmp_path: Path) -> None:
    names = ["cat", "dog", "tree", "house"]
    by_class = [f"a photo of a {name} {i % 7}" for name in names for i in range(20)]
    mixed = [by_class[i * 37 % 80] for i in range(80)]
    assert "SORTED" in _write_captions(tmp_path / "sorted", by_class, list(range(80)))
    assert "order         mixed" in _write_captions(tmp_path / "mixed", mixed, list(range(80)))
    unlike = [f"word{i} other{i} third{i}" for i in range(80)]
    five = _write_captions(tmp_path / "five", unlike, [i // 5 for i in range(80)])
    assert "SORTED" in five and "have the same image" in five and "--shuffle wide" in five
    assert "too few rows" in _write_captions(tmp_path / "few", by_class[:10], list(range(10)))
