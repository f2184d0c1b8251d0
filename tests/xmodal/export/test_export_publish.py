"""Tests of publishing: an export is complete or does not load, and files that no export wrote are never replaced."""

import json
from pathlib import Path

import pytest

from xmodal import storage
from xmodal.errors import ConfigError, StorageError
from xmodal.export import publish as publishing
from xmodal.export.publish import MANIFEST, prepare_target, publish, staging_directory
from xmodal.storage import StorageOptions

NAMES = ("README.md", "config.json", "onnx/image.onnx")
OPTIONS = StorageOptions()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("s3_root") if request.param == "s3" else str(tmp_path / "models")


def export(uri: str, files: dict[str, str], *, overwrite: bool = False) -> None:
    target = prepare_target(uri, NAMES, overwrite=overwrite, options=OPTIONS)
    with staging_directory(target) as staged:
        write_files(staged, files)
        publish(staged, target, {"step": 7})


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def files_of(uri: str) -> dict[str, str]:
    """Return the content of every file except the manifest."""
    entries = storage.list_files(uri)
    contents = {entry.uri.removeprefix(f"{uri}/"): storage.read(entry.uri).decode() for entry in entries}
    return {name: text for name, text in contents.items() if name != MANIFEST}


FIRST = {"README.md": "one", "config.json": "{}", "onnx/image.onnx": "graph"}
SECOND = {"README.md": "two", "config.json": '{"a": 1}'}


def test_a_new_directory_holds_all_files_and_a_manifest_of_them(root: str) -> None:
    export(f"{root}/a", FIRST)
    assert files_of(f"{root}/a") == FIRST
    manifest = json.loads(storage.read(f"{root}/a/{MANIFEST}"))
    assert manifest["finished"] and manifest["step"] == 7
    assert [file["path"] for file in manifest["files"]] == sorted(FIRST)


def test_an_existing_export_is_refused_without_overwrite(root: str) -> None:
    export(f"{root}/a", FIRST)
    with pytest.raises(ConfigError, match=r"holds 4 file\(s\) \(README.md, config.json, export.json\).*--overwrite"):
        export(f"{root}/a", SECOND)
    assert files_of(f"{root}/a") == FIRST


def test_overwrite_replaces_only_files_of_the_earlier_export(root: str) -> None:
    export(f"{root}/a", FIRST)
    storage.write(f"{root}/a/mine/notes.txt", b"mine")
    export(f"{root}/a", SECOND, overwrite=True)
    assert files_of(f"{root}/a") == SECOND | {"mine/notes.txt": "mine"}
    assert len(json.loads(storage.read(f"{root}/a/{MANIFEST}"))["files"]) == 2


def test_a_file_that_someone_edited_is_not_replaced(root: str) -> None:
    export(f"{root}/a", FIRST)
    storage.write(f"{root}/a/README.md", b"onE")
    with pytest.raises(ConfigError, match=r"holds README.md, changed since it was exported: move it away"):
        export(f"{root}/a", SECOND, overwrite=True)
    assert files_of(f"{root}/a") == FIRST | {"README.md": "onE"}


def test_a_file_of_the_same_name_that_no_export_wrote_is_not_replaced(root: str) -> None:
    storage.write(f"{root}/a/README.md", b"mine")
    storage.write(f"{root}/a/.gitattributes", b"*.safetensors filter=lfs")
    with pytest.raises(ConfigError, match=r"holds README.md, which no export wrote"):
        export(f"{root}/a", FIRST, overwrite=True)
    storage.delete(f"{root}/a/README.md")
    export(f"{root}/a", FIRST, overwrite=True)
    assert files_of(f"{root}/a") == FIRST | {".gitattributes": "*.safetensors filter=lfs"}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": [{"path": 3}]}', '{"files": [{"path": "../x", "size": 1, "sha256": ""}]}']
)
def test_a_malformed_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, {MANIFEST: text})
    with pytest.raises(ConfigError, match="is not the list of an export"):
        export(str(tmp_path), FIRST, overwrite=True)


def test_when_storage_fails_a_new_export_leaves_nothing_loadable(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_new_local_path", lambda uri: None)  # file by file, locally too
    upload = storage.upload

    def failing(local: str, uri: str, *, options: StorageOptions) -> None:
        if uri.endswith("image.onnx"):
            raise StorageError("no space")
        upload(local, uri, options=options)

    monkeypatch.setattr(storage, "upload", failing)
    with pytest.raises(StorageError, match="no space"):
        export(f"{root}/a", FIRST)
    assert not storage.exists(f"{root}/a")


def test_an_interrupted_replacement_does_not_load_and_the_same_command_completes_it(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(f"{root}/a", FIRST)
    upload, done = storage.upload, []

    def dying(local: str, uri: str, *, options: StorageOptions) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(uri)
        upload(local, uri, options=options)

    monkeypatch.setattr(storage, "upload", dying)
    with pytest.raises(KeyboardInterrupt):
        export(f"{root}/a", SECOND, overwrite=True)
    assert files_of(f"{root}/a") == {"README.md": "two"}, "no config.json: nothing takes it for a model"
    monkeypatch.setattr(storage, "upload", upload)
    export(f"{root}/a", SECOND, overwrite=True)
    assert files_of(f"{root}/a") == SECOND


def test_a_failure_while_files_are_written_leaves_nothing_behind(tmp_path: Path) -> None:
    target = prepare_target(str(tmp_path / "deep" / "a"), NAMES, overwrite=False, options=OPTIONS)
    with pytest.raises(RuntimeError), staging_directory(target) as staged:
        write_files(staged, FIRST)
        raise RuntimeError
    assert not list((tmp_path / "deep").iterdir())


def test_an_empty_directory_or_a_link_to_one_counts_as_new(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("empty", "link", "new/"):
        export(f"{tmp_path}/{name}", FIRST)
        assert files_of(f"{tmp_path}/{name.strip('/')}") == FIRST
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").stat().st_mode & 0o777 == (tmp_path / "target").stat().st_mode & 0o777


def test_a_directory_that_was_filled_in_the_meantime_is_left_unchanged(tmp_path: Path) -> None:
    target = prepare_target(str(tmp_path / "a"), NAMES, overwrite=False, options=OPTIONS)
    with pytest.raises(StorageError), staging_directory(target) as staged:
        write_files(staged, FIRST)
        write_files(tmp_path / "a", {"README.md": "mine"})
        publish(staged, target, {})
    assert files_of(str(tmp_path / "a")) == {"README.md": "mine"}


def test_a_file_as_target_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": "file"})
    with pytest.raises(
        (ConfigError, StorageError), match=r"a is a file: name a directory|directories in the path is a file"
    ):
        export(str(tmp_path / "a"), FIRST)
    with pytest.raises(StorageError, match="one of the directories in the path is a file"):
        export(str(tmp_path / "a" / "b"), FIRST)
