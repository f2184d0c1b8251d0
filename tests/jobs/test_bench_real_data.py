"""Public data sets: files are compared with their checksums, and faults become one listing with sources."""

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

import pytest

from jobs.bench import __main__ as bench
from jobs.bench import datasets
from jobs.bench.datasets import DATASETS, datasets_of, expected_files
from jobs.bench.real_data import BESIDE_THE_CHECKOUT, data_folder, describe_data, file_states, require_data
from jobs.reproduce import __main__ as reproduce
from jobs.reproduce.catalogue import ENTRIES, ExperimentName
from xmodal.errors import ConfigError

NEEDS = ("digits/mnist_*.parquet", "photos/*.tar")
CONTENTS = {"digits/mnist_train.parquet": b"train", "digits/mnist_test.parquet": b"test", "photos/00000.tar": b"photos"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write three small files, and replace the list of checksums by theirs."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in CONTENTS.items()]
    checksums = tmp_path / "SHA256SUMS"
    checksums.write_text("".join(lines))
    monkeypatch.setattr(datasets, "CHECKSUMS", checksums)
    data = tmp_path / "data"
    for path, content in CONTENTS.items():
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(content)
    return data


def test_every_listed_file_belongs_to_one_dataset_and_has_a_checksum() -> None:
    files = expected_files([dataset.pattern for dataset in DATASETS])
    lines = datasets.CHECKSUMS.read_text().splitlines()
    assert len(files) == len(lines) and all(len(sha256) == 64 for sha256 in files.values())
    for path in files:
        assert sum(fnmatchcase(path, dataset.pattern) for dataset in DATASETS) == 1


def test_everything_that_experiments_and_benchmarks_need_is_listed() -> None:
    for name in get_args(ExperimentName):
        assert expected_files(ENTRIES[name].needs) and datasets_of(ENTRIES[name].needs)
    assert {name for name in bench.benchmarks() if bench.needs_of(name)} == {"av", "icons", "ingest", "shuffle"}
    assert all(expected_files(bench.needs_of(name)) for name in ("av", "icons", "ingest", "shuffle"))


def test_complete_data_are_accepted(folder: Path) -> None:
    assert require_data("cg-mnist", NEEDS, str(folder)) == folder
    assert set(file_states(folder, NEEDS).values()) == {"as expected"}


def test_missing_and_changed_files_are_listed_with_their_sources(folder: Path) -> None:
    (folder / "digits/mnist_test.parquet").unlink()
    (folder / "photos/00000.tar").write_bytes(b"others")
    with pytest.raises(ConfigError) as error:
        require_data("digits-adaptation", NEEDS, str(folder))
    text = str(error.value)
    assert f"digits-adaptation cannot start: 2 of its data files are not in {folder} as expected" in text
    assert "digits/mnist_test.parquet  missing" in text and "photos/00000.tar           differs" in text
    assert "mnist_train" not in text and "https://github.com/rasbt/mnist-pngs" in text and "CC0 1.0" in text
    assert "--data FOLDER or XMODAL_BENCH_DATA" in text and "--allow-other-data" in text


def test_other_data_are_accepted_on_request_where_every_pattern_has_a_file(folder: Path) -> None:
    (folder / "photos/00000.tar").rename(folder / "photos/other.tar")
    assert require_data("digits-adaptation", NEEDS, str(folder), allow_other=True) == folder
    (folder / "photos/other.tar").unlink()
    with pytest.raises(ConfigError, match=r"photos/\*.tar +missing"):
        require_data("digits-adaptation", NEEDS, str(folder), allow_other=True)


def test_a_file_that_changes_is_hashed_again(folder: Path) -> None:
    require_data("cg-mnist", NEEDS, str(folder))
    (folder / "photos/00000.tar").write_bytes(b"photographs")
    assert file_states(folder, NEEDS)["photos/00000.tar"] == "differs"


def test_the_folder_is_the_argument_then_the_variable_then_beside_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMODAL_BENCH_DATA", "/from/variable")
    assert data_folder("/from/argument") == Path("/from/argument") and data_folder() == Path("/from/variable")
    monkeypatch.delenv("XMODAL_BENCH_DATA")
    assert data_folder() == BESIDE_THE_CHECKOUT


def test_the_description_names_files_with_checksums_states_sources_and_licences(folder: Path) -> None:
    text = describe_data("cg-mnist", NEEDS[:1], str(folder))
    for path in ("digits/mnist_train.parquet", "digits/mnist_test.parquet"):
        assert f"{hashlib.sha256(CONTENTS[path]).hexdigest()}  {path}  (as expected)" in text
    assert "photos" not in text and "MNIST: https://github.com/rasbt/mnist-pngs" in text and "Licence:" in text


def test_an_experiment_with_missing_data_trains_nothing(tmp_path: Path) -> None:
    config = reproduce.ReproduceConfig(name="cg-mnist", data=str(tmp_path / "empty"), to=str(tmp_path / "results"))
    with pytest.raises(ConfigError, match=r"(?s)cg-mnist cannot start.*digits/mnist_test.parquet +missing"):
        reproduce.run(config)
    assert not (tmp_path / "results" / "results.json").exists()


def test_list_data_prints_the_files_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    to = tmp_path / "results"
    request = reproduce.parse(["usps-mnist", "--list-data", "--data", str(tmp_path), "--to", str(to)])
    reproduce.run(request.config)
    assert bench.main(["plan", "av", "--list-data", "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "digits/usps_train.parquet  (missing)" in printed and "Licence: none stated" in printed
    assert "plan reads no data set" in printed and "grid_s1/test-00000.tar  (missing)" in printed and not to.exists()
